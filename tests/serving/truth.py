"""The truth server: built, started, stopped, and its log read.

`truth_server.c` says what it does. All instants are nanoseconds on CLOCK_MONOTONIC, the clock that
the client's stamps are on too.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

SOURCE = Path(__file__).with_name("truth_server.c")
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")
_STOP_S = 30


class Sent(msgspec.Struct, kw_only=True):
    """One request as the server answered it; the head of `truth_server.c` explains the fields."""

    id: int
    key: str
    received_ns: int
    arrived_ns: int | None
    sent_ns: list[int]
    returned_ns: list[int]
    held: int
    finish: str

    @property
    def start_ns(self) -> int:
        """When the whole request was at the server's socket, or read where that is not known."""
        return self.received_ns if self.arrived_ns is None else self.arrived_ns

    @property
    def ttft_s(self) -> float:
        """From the request's arrival to the first token's send."""
        return (self.sent_ns[0] - self.start_ns) / 1e9

    @property
    def tpot_s(self) -> float:
        """The mean gap between sends."""
        return (self.sent_ns[-1] - self.sent_ns[0]) / 1e9 / (len(self.sent_ns) - 1)


def compiler() -> str | None:
    """The C compiler's command, None where there is none."""
    return shutil.which(os.environ.get("CC", "cc"))


def build(folder: Path) -> Path:
    """The server's executable in `folder`, built anew where the source is newer.

    Raises CalledProcessError where the compiler refuses, FileNotFoundError where there is none.
    """
    program = folder / "truth_server"
    if program.exists() and program.stat().st_mtime > SOURCE.stat().st_mtime:
        return program
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".truth_server.{os.getpid()}"
    command = compiler()
    if command is None:
        raise FileNotFoundError("no C compiler: install gcc and libc6-dev, or set CC")
    subprocess.run([command, *FLAGS, str(SOURCE), "-o", str(draft)], check=True)
    draft.rename(program)
    return program


class TruthServer:
    """A running truth server; options are its command's, `ttft_ms=50` for `--ttft-ms 50`."""

    def __init__(self, program: Path, log: Path, **options: Any) -> None:
        words = [str(program), "--log", str(log)]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        self._log = log
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        with self._process.stdout as output:
            self.port = int(output.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_s(self) -> float:
        """CPU time it has used so far, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> list[Sent]:
        """Every request it was sent, in order of arrival."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(_STOP_S)
        lines = self._log.read_bytes().splitlines()
        return [msgspec.json.decode(line, type=Sent) for line in lines]

    def __enter__(self) -> TruthServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def wait_until_healthy(url: str, seconds: float) -> None:
    """Return once GET /health answers; TimeoutError where it does not within `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"{url}/health did not answer within {seconds} s")
