"""What a user asks of a server is resolved, or refused before anything is started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from harness import engines
from harness.errors import ArmbenchError
from harness.machine.detect import detect
from harness.model.checkpoint import open_folder
from harness.serving.options import ServeOptions
from harness.serving.resolve import check_engine, check_memory, resolve, serve_setting
from tests.serving.talk import ask


def options(folder: Path, **more: object) -> ServeOptions:
    return msgspec.convert({"model": str(folder), "engine": "fake", **more}, ServeOptions)


def test_defaults_come_from_the_model_and_the_machine(tiny: Path) -> None:
    service = resolve(options(tiny, threads=1), lambda _: None)
    assert (service.name, service.vocabulary) == ("tiny", 4096)
    assert service.setting.context == 4096
    assert service.setting.kv_tokens == 8 * 4096
    assert len(service.spec.cpus) == 1
    assert set(service.driver_cpus) <= os.sched_getaffinity(0)
    assert service.spec.options == engines.resolve_options("fake", {})
    assert msgspec.json.decode(msgspec.json.encode(service), type=type(service)) == service


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"engine": "fak"}, "unknown engine"),
        ({"dtype": "float8"}, "has no dtype"),
        ({"context": 40_000}, "context is 40000"),
        ({"kv_tokens": 9_000_000}, "kv_tokens is"),
        ({"slots": 0}, "slots is 0"),
        ({"chunk": 0}, "chunk is 0"),
        ({"port": 70_000}, "port is 70000"),
        ({"max_waiting": -1}, "max_waiting is -1"),
        ({"threads": 10_000}, "10000 threads"),
        ({"options": {"speed": 9}}, "unknown option"),
        ({"options": {"memory_bytes": 2**60}}, "of memory"),
    ],
)
def test_what_can_not_be_served_is_refused(tiny: Path, more: dict[str, object], said: str) -> None:
    with pytest.raises(ArmbenchError, match=said):
        resolve(options(tiny, **more), lambda _: None)


def test_an_engine_without_slots_can_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(engines.module("fake"), "serves")
    with pytest.raises(ArmbenchError, match="can't serve"):
        check_engine("fake", "float32")


def test_memory_counts_every_slot(tiny: Path) -> None:
    d = open_folder(tiny).dimensions
    machine = detect()
    setting = serve_setting(options(tiny, slots=64, context=32_768), d)
    machine.limits.memory_bytes = 1000 * 2**20
    with pytest.raises(ArmbenchError, match="64 sequences of 32768 tokens"):
        check_memory("torch", "float32", {"packed": False}, setting, d, machine)


def test_the_one_call_resolves_announces_serves_and_ends(tiny: Path) -> None:
    program = (
        "import sys\n"
        "from harness.serving.options import ServeOptions\n"
        "from harness.serving.server import serve\n"
        "said = []\n"
        "announce = lambda ready: print(ready.url, flush=True)\n"
        "options = ServeOptions(model=sys.argv[1], engine='fake', port=0, threads=1)\n"
        "code = serve(options, announce, said.append)\n"
        "print(said)\n"
        "sys.exit(code)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tiny)], stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        url = started.stdout.readline().strip()
        assert ask(url, "/v1/completions", {"prompt": "hello"}).status == 200
        started.send_signal(signal.SIGINT)
        assert "warming up" in started.stdout.read()
        assert started.wait(20) == 0
