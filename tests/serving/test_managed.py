"""Foreign servers start on their CPUs, are watched, and leave nothing behind.

The server is a real one, a few lines of Python that behave as badly as real servers do.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.engine_process import EngineFailed
from harness.errors import ArmbenchError
from harness.load import managed
from harness.load.managed import Managed
from harness.load.processes import read_process
from harness.load.programs import resolve, version
from harness.load.recipes import Recipe, Settings, Version, read_recipe
from harness.load.scrape import get

SERVER = """
import http.server, json, os, signal, subprocess, sys, time
mode, port, slow = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
began, children = time.monotonic(), []
print("a line of the log", flush=True)
if mode == "crash":
    print("cannot load the model", file=sys.stderr)
    sys.exit(3)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "graceful":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if mode == "family":
    deaf = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    busy = "import time\\nwhile True: sum(range(10000)); time.sleep(0.001)"
    children.append(subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True))
    children.append(subprocess.Popen([sys.executable, "-c", busy]))
TOLD = {
    "affinity": sorted(os.sched_getaffinity(0)),
    "mine": os.environ.get("MINE"),
    "omp": os.environ.get("OMP_NUM_THREADS"),
    "own_group": os.getpgrp() == os.getpid(),
    "children": [child.pid for child in children],
}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            os._exit(7)
        up = time.monotonic() - began >= slow
        body = json.dumps({"status": "ok" if up else "loading"})
        if self.path == "/told":
            body = json.dumps(TOLD)
        if self.path == "/metrics":
            body = "# TYPE done_total counter\\ndone_total 3\\n"
        self.send_response(200 if up else 503)
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
RECIPE = """
name = "small"
title = "the small server"
sources = []
as_of = 2026-11-23
model = "name"
affinity = "inherited"
install = "it is in the test"
command = ["{python}", "{script}", "{mode}", "{{port}}", "{slow}"]
environment = {{ MINE = "{{threads}} on {{places}}", NEVER = "{{chunk}}" }}
{extra}
[ready]
path = "/health"
json = {{ status = "ok" }}
within_s = {within_s}
[requests]
endpoints = ["completions"]
always = {{ cache_prompt = false }}
exact_length = {{ ignore_eos = true }}
[metrics]
path = "/metrics"
meaning = {{ requests = ["done_total"] }}
[teardown]
within_s = {grace_s}
"""
Write = Callable[..., Recipe]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the server and its recipe, and reads that."""

    def made(mode: str = "plain", **changes: Any) -> Recipe:
        (tmp_path / "server.py").write_text(SERVER)
        parts = {
            "python": sys.executable,
            "script": tmp_path / "server.py",
            "mode": mode,
            "slow": 0.0,
            "within_s": 30,
            "grace_s": 5,
            "extra": "",
        }
        (tmp_path / "small.toml").write_text(RECIPE.format(**(parts | changes)))
        return read_recipe(str(tmp_path / "small.toml"))

    return made


def settings(**changes: Any) -> Settings:
    cpu = min(os.sched_getaffinity(0))
    return Settings(**({"model": "m", "model_name": "m", "cpus": (cpu,)} | changes))


def told(server: Managed) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(get(f"{server.url}/told")[1])
    return answer


def alive(pid: int) -> bool:
    process = read_process(pid)
    return process is not None and process.state not in "ZX"


def gone(*pids: int) -> bool:
    """Whether all of them end within ten seconds."""
    for _ in range(200):
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def check_for_long(server: Managed) -> None:
    """Checks for ten seconds: the supervisor needs a moment to clear away."""
    for _ in range(200):
        server.check()
        time.sleep(0.05)


def test_a_server_is_ready_on_entry_and_gone_on_exit(write: Write) -> None:
    with Managed(write("graceful"), settings()) as server:
        assert get(f"{server.url}/health")[0] == 200
        assert alive(server.pid)
        assert server.ready_s is not None
    assert gone(server.pid)
    assert server.ended is not None
    assert server.ended.code == 0
    assert server.ended.killed == []


def test_waiting_for_a_slow_server_is_told_with_what_it_says(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed, "_PROGRESS_S", 0.1)
    lines: list[str] = []
    with Managed(write(slow=1.0), settings(), progress=lines.append):
        pass
    assert any("the small server: 503" in line and "loading" in line for line in lines)


def test_a_server_that_never_gets_ready_is_ended_with_a_reason(write: Write) -> None:
    server = Managed(write(slow=600, within_s=1), settings())
    with pytest.raises(EngineFailed, match=r"not ready within 1\.0 s: /health gave 503") as failed:
        server.__enter__()
    assert failed.value.stderr_tail == ["a line of the log"]
    assert gone(server.pid)


def test_a_server_that_crashes_at_its_start_shows_code_and_log(write: Write) -> None:
    with (
        pytest.raises(EngineFailed, match="ended with code 3 before it was ready") as failed,
        Managed(write("crash"), settings()),
    ):
        pass
    assert failed.value.exit_code == 3
    assert failed.value.stderr_tail[-1] == "cannot load the model"


def test_a_server_that_ignores_sigterm_is_killed(write: Write) -> None:
    with Managed(write("stubborn", grace_s=0.3), settings()) as server:
        pass
    assert gone(server.pid)
    assert server.ended is not None
    assert server.ended.code == -signal.SIGKILL
    assert len(server.ended.killed) == 1


def test_what_a_server_started_goes_with_it_even_from_a_session_of_its_own(write: Write) -> None:
    with Managed(write("family", grace_s=0.5), settings()) as server:
        children = told(server)["children"]
        assert {p.pid for p in server.processes()} == {server.pid, *children}
    assert gone(server.pid, *children)


def test_the_busiest_process_is_the_one_that_computes(write: Write) -> None:
    with Managed(write("family", grace_s=0.2), settings()) as server:
        before, busy = server.cpu_s(), told(server)["children"][1]
        for _ in range(400):
            if server.cpu_s()[busy] - before.get(busy, 0.0) >= 0.1:
                break
            time.sleep(0.05)
        assert server.busiest(since=before) == busy


def test_a_server_that_ends_while_it_is_used_takes_its_children_along(write: Write) -> None:
    with Managed(write("family", grace_s=0.3), settings()) as server:
        children = told(server)["children"]
        server.check()
        with pytest.raises(ArmbenchError):
            get(f"{server.url}/die")
        assert gone(server.pid, *children)
        with pytest.raises(EngineFailed, match="ended with code 7 while it was used"):
            check_for_long(server)
        with pytest.raises(EngineFailed, match="code 7"):
            server.check()


def test_a_killed_server_is_told_by_its_signal(write: Write) -> None:
    with Managed(write(), settings()) as server:
        os.kill(server.pid, signal.SIGKILL)
        assert gone(server.pid)
        with pytest.raises(EngineFailed, match="was killed by SIGKILL"):
            check_for_long(server)


def test_a_server_dies_with_armbench(write: Write, tmp_path: Path) -> None:
    write("family", grace_s=0.3)
    script = f"""
import os, sys, time
from harness.load.managed import Managed
from harness.load.recipes import Settings, read_recipe
from harness.load.scrape import get
recipe = read_recipe({str(tmp_path / "small.toml")!r})
settings = Settings(model="m", model_name="m", cpus=({min(os.sched_getaffinity(0))},))
with Managed(recipe, settings) as server:
    print(server.pid, *[p.pid for p in server.processes()], flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 4
        assert all(alive(pid) for pid in pids)
        parent.kill()
    assert gone(*pids)


def test_a_server_runs_on_its_cpus_in_a_group_of_its_own(write: Write) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    with Managed(write(), settings(cpus=(cpus[-1],))) as server:
        assert told(server)["affinity"] == [cpus[-1]]
        assert told(server)["own_group"]
    with Managed(write(), settings(cpus=(cpus[0],), front_cpus=(cpus[-1],))) as server:
        assert told(server)["affinity"] == sorted({cpus[0], cpus[-1]})


def test_a_server_gets_its_recipe_s_variables_and_not_the_caller_s_threads(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    cpu = min(os.sched_getaffinity(0))
    with Managed(write(), settings()) as server:
        assert told(server)["omp"] is None
        assert told(server)["mine"] == f"1 on {{{cpu}}}"
        facts = server.facts()
    assert facts["variables"] == [f"MINE=1 on {{{cpu}}}"]
    assert facts["recipe"] == "small"
    assert facts["ready_s"] > 0


def test_metrics_and_target_come_by_the_recipe(write: Write) -> None:
    with Managed(write(), settings()) as server:
        samples = server.samples()
        target = server.target()
        with pytest.raises(ArmbenchError, match="unknown endpoint of the small server 'chat'"):
            server.target("chat")
    assert samples is not None
    assert samples.counters == {"done_total": 3.0}
    assert target.url == f"{server.url}/v1"
    assert target.recipe == "small"
    assert json.loads(target.body) == {"cache_prompt": False}
    assert target.sampling == {"ignore_eos": True}


def test_a_program_that_is_not_there_is_named_with_how_to_get_it(write: Write) -> None:
    recipe = write()
    with pytest.raises(ArmbenchError, match="is not on PATH") as error:
        resolve(recipe, "no-such-program")
    assert error.value.hint == "it is in the test"
    with pytest.raises(ArmbenchError, match="is no program"):
        Managed(write(), settings(), binary="/no/such/program")


def test_a_program_that_cannot_run_is_an_error_of_the_user(write: Write, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF of another machine")
    broken.chmod(0o755)
    with (
        pytest.raises(ArmbenchError, match="could not be started"),
        Managed(write(), settings(), binary=str(broken)),
    ):
        pass


def test_a_port_that_is_taken_is_refused(write: Write) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ArmbenchError, match="cannot be used"):
            Managed(write(), settings(), port=taken.getsockname()[1])


def test_a_model_of_the_wrong_kind_is_refused_before_anything_starts(tmp_path: Path) -> None:
    recipe = read_recipe("llama-server")
    with pytest.raises(ArmbenchError, match="takes a GGUF file as its model"):
        Managed(recipe, settings(model=str(tmp_path)), binary=sys.executable)


@pytest.mark.parametrize(
    ("code", "pattern", "expected"),
    [
        ("print(); print('small 1.2')", r"(\S.*)", "small 1.2"),
        ("print('small 1.2 for x')", r"small (\S+)", "1.2"),
        ("print('no number')", r"small (\d+)", None),
        ("print('small 1.2'); raise SystemExit(1)", r"(\S.*)", None),
    ],
)
def test_a_version_is_what_the_program_prints(
    write: Write, code: str, pattern: str, expected: str | None
) -> None:
    ask = Version(command=[sys.executable, "-c", code], pattern=pattern)
    recipe = msgspec.structs.replace(write(), version=ask)
    assert version(recipe, sys.executable) == expected
