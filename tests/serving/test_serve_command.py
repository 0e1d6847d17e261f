"""`armbench serve` as a user starts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from harness.cli.serve import SERVE_FLAGS
from harness.errors import Exit
from harness.serving.options import ServeOptions
from tests.serving.talk import ask
from tests.test_run import armbench


def test_the_flags_are_the_keys_of_the_options() -> None:
    keys = {f.name for f in msgspec.structs.fields(ServeOptions)}
    assert set(SERVE_FLAGS) == keys - {"options"}


def test_it_says_where_it_listens_answers_and_ends_on_sigterm(tiny: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "harness", "serve", "--model", str(tiny), "--engine", "fake"),
            *("--port", "0", "--json", "--threads", "1", "--option", "step_s=0.001"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        answer = ask(ready["url"], "/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 2})
        assert answer.status == 200
        assert answer.json["usage"]["prompt_tokens"] == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == Exit.FINE
    finally:
        process.kill()
        process.communicate()


def test_what_the_user_can_mend_is_said_with_exit_2() -> None:
    for flags, said in (
        ((), "no --model"),
        (("--model", "qwen2.5-0.5b", "--engine", "none-such"), "none-such"),
        (("--model", "/nowhere/at/all"), "/nowhere/at/all"),
        (("--model", "qwen2.5-0.5b", "--port", "http"), "--port"),
    ):
        done = armbench("serve", *flags)
        assert done.returncode == Exit.USER, done.stderr
        assert said in done.stderr
