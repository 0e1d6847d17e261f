"""How a server ends: drained, at once, with its parent, or alive to say that its engine died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from harness.engine_process import EngineFailed
from harness.serving.process import ServerProcess
from tests.serving.conftest import service_for, serving
from tests.serving.talk import Stream, ask, requests_at, text_of, until

Opened = Callable[..., Stream]
COMPLETIONS = "/v1/completions"
LONG = {"prompt": [1], "max_tokens": 29_000, "ignore_eos": True}


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_on_sigterm_what_runs_is_finished_and_what_comes_is_503(tiny: Path, opened: Opened) -> None:
    with serving(service_for(tiny, slots=1)) as running:
        body = {"prompt": [1], "max_tokens": 400, "ignore_eos": True}
        first, second = (opened(running.url, COMPLETIONS, body) for _ in range(2))
        events = first.events()
        next(events)
        until(lambda: requests_at(running.url) == 2)
        running.process.process.send_signal(signal.SIGTERM)
        until(lambda: ask(running.url, "/health").status == 503)
        answer = ask(running.url, COMPLETIONS, body)
        assert (answer.status, answer.json["error"]["code"]) == (503, "shutting_down")
        assert int(answer.headers["retry-after"]) == 30
        assert ask(running.url, "/health").json["status"] == "draining"
        assert len(list(events)) == 399
        assert len(list(second.events())) == 400  # it waited, and was accepted
        assert running.process.process.wait(20) == 0
        assert not alive(running.ready.engine_pid)


def test_what_does_not_end_in_time_gets_an_error_event(tiny: Path, opened: Opened) -> None:
    with serving(service_for(tiny, context=30_000, drain_s=0.2)) as running:
        one = opened(running.url, COMPLETIONS, LONG)
        events = one.events()
        next(events)
        running.process.process.send_signal(signal.SIGINT)
        *_, last = events
        assert last["error"]["code"] == "shutting_down"
        assert one.done
        assert running.process.process.wait(20) == 0


def test_a_second_signal_ends_it_at_once(tiny: Path, opened: Opened) -> None:
    with serving(service_for(tiny, context=30_000, drain_s=1000)) as running:
        next(opened(running.url, COMPLETIONS, LONG).events())
        running.process.process.send_signal(signal.SIGTERM)
        until(lambda: ask(running.url, "/health").status == 503)
        running.process.process.send_signal(signal.SIGTERM)
        assert running.process.process.wait(20) == 130
        until(lambda: not alive(running.ready.engine_pid))


def test_when_the_engine_is_killed_its_streams_say_so_and_the_server_stays_to_tell(
    tiny: Path, opened: Opened
) -> None:
    with serving(service_for(tiny, slots=1, context=30_000)) as running:
        started, waiting = (opened(running.url, COMPLETIONS, LONG) for _ in range(2))
        events = started.events()
        first = next(events)
        until(lambda: requests_at(running.url) == 2)
        os.kill(running.ready.engine_pid, signal.SIGKILL)
        *before, last = events
        assert text_of([first, *before])
        assert last["error"]["code"] == "engine_failed"
        assert "SIGKILL" in last["error"]["message"]
        assert waiting.begin().status == 500  # nothing was sent yet: the status can tell
        health = ask(running.url, "/health")
        assert (health.status, health.json["status"]) == (503, "dead")
        answer = ask(running.url, COMPLETIONS, LONG)
        assert (answer.status, answer.json["error"]["code"]) == (503, "engine_dead")
        assert int(answer.headers["retry-after"]) > 1
        assert ask(running.url, "/armbench/report").status == 503
        assert ask(running.url, "/armbench/log").json["requests"][0]["finish"] == "error"
        assert running.process.stop() == 1


def test_an_engine_that_raises_is_dead_with_its_own_words(tiny: Path, opened: Opened) -> None:
    options = {"fault": "error", "fault_step": 300}
    with serving(service_for(tiny, options=options, context=30_000)) as running:
        *_, last = opened(running.url, COMPLETIONS, LONG).events()
        assert "failing as asked" in last["error"]["message"]
        assert "RuntimeError" in ask(running.url, "/health").json["reason"]
        until(lambda: not alive(running.ready.engine_pid))


def test_an_engine_that_hangs_is_killed(tiny: Path, opened: Opened) -> None:
    options = {"fault": "hang", "fault_step": 300}
    service = service_for(tiny, options=options, context=30_000, step_timeout_s=1.0)
    with serving(service) as running:
        *_, last = opened(running.url, COMPLETIONS, LONG).events()
        assert "no step ended within" in last["error"]["message"]
        until(lambda: not alive(running.ready.engine_pid))


def test_an_engine_that_dies_before_it_serves_is_told_with_its_reason(tiny: Path) -> None:
    options = {"fault": "crash", "fault_step": 3}
    with (
        ServerProcess(service_for(tiny, options=options)) as process,
        pytest.raises(EngineFailed, match="SIGSEGV"),
    ):
        process.ready(30)


def test_it_dies_with_the_one_that_started_it(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "service.json"
    file.write_bytes(msgspec.json.encode(service_for(tiny)))
    program = (
        "import sys, time, msgspec\n"
        "from pathlib import Path\n"
        "from harness.serving.options import Service\n"
        "from harness.serving.process import ServerProcess\n"
        "service = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Service)\n"
        "with ServerProcess(service) as process:\n"
        "    ready = process.ready(30)\n"
        "    print(ready.pid, ready.engine_pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(alive, pids))
        parent.kill()
    until(lambda: not any(map(alive, pids)))
