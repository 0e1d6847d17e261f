"""The driver's end of an engine process: start it pinned, ask it, and say how it died."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from harness import wire
from harness.errors import ArmbenchError
from harness.parent import child_command
from harness.units import format_cpu_list, format_duration

_TAIL_LINES = 20
# Variables that would set threads or places behind the plan's back.
_DROPPED = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ORT_", "DNNL_", "ONEDNN_", "VECLIB_")
R = TypeVar("R")


class EngineFailed(Exception):
    """An engine process crashed, hung or refused; `reason` in plain words."""

    def __init__(
        self, reason: str, stderr_tail: Sequence[str] = (), exit_code: int | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.stderr_tail = list(stderr_tail)
        self.exit_code = exit_code


def oom_kills(root: Path = Path("/")) -> int | None:
    """Processes the kernel has killed for memory since boot; None where it does not say."""
    try:
        for line in (root / "proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None


def child_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without thread settings, plus `variables`, offline."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_DROPPED)}
    quiet = {
        "OPENBLAS_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONUNBUFFERED": "1",
    }
    return {**kept, **quiet, **variables}


class EngineProcess:
    """One engine process on `cpus`, its memory on `nodes` where there are several.

    Use as a context manager, which kills what is left at the end.
    """

    def __init__(
        self, cpus: Sequence[int], variables: Mapping[str, str], nodes: Sequence[int] = ()
    ) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self.oom_kills = oom_kills()
        ours, theirs = socket.socketpair()
        self.channel = ours
        with theirs:
            self.process = subprocess.Popen(
                child_command(
                    "harness.worker",
                    *(str(theirs.fileno()), format_cpu_list(cpus), format_cpu_list(nodes)),
                ),
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                pass_fds=[theirs.fileno()],
                env=child_environment(variables),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.channel.close()
        try:
            self.process.wait(timeout=0 if kind else 5)
        except subprocess.TimeoutExpired:
            self.kill()
        self.log.close()

    def kill(self) -> None:
        """End the process and everything it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def ask(self, request: wire.Request, kind: type[R], timeout_s: float | None) -> R:
        """The reply to `request`, of type `kind`.

        Raises EngineFailed where the process dies or does not answer within `timeout_s` (it is
        killed then), and where the request failed in it; ArmbenchError where the user can mend it.
        """
        what = type(request).__name__.lower()
        self.channel.settimeout(timeout_s)
        self.tell(request)
        return self.hear(what, kind, timeout_s)

    def tell(self, request: wire.Request) -> None:
        """Send `request`, whose reply is heard later. A process that is gone is found out there."""
        with contextlib.suppress(wire.Closed):
            wire.send(self.channel, request)

    def hear(self, what: str, kind: type[R], timeout_s: float | None) -> R:
        """The reply to what was told; see `ask`."""
        self.channel.settimeout(timeout_s)
        try:
            reply = wire.receive_reply(self.channel)
        except TimeoutError:
            self.kill()
            raise EngineFailed(
                f"no answer to {what!r} within {format_duration(timeout_s or 0)}: killed",
                self.tail(),
                self.process.returncode,
            ) from None
        except wire.Closed:
            raise self.died(what) from None
        if isinstance(reply, wire.Failed):
            if reply.kind == ArmbenchError.__name__:
                raise ArmbenchError(reply.message, hint=reply.hint)
            raise EngineFailed(
                f"{what!r} failed: {reply.kind}: {reply.message}", reply.traceback or self.tail()
            )
        if not isinstance(reply, kind):
            raise EngineFailed(f"{what!r} was answered by {type(reply).__name__}", self.tail())
        return reply

    def died(self, what: str) -> EngineFailed:
        """How the process ended, whose channel is closed: to be raised. Waits up to ten seconds."""
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
            return EngineFailed(f"hung up during {what!r}", self.tail())
        if code >= 0:
            return EngineFailed(f"ended with code {code} during {what!r}", self.tail(), code)
        reason = f"killed by {signal.Signals(-code).name} during {what!r}"
        now = oom_kills()
        if code == -signal.SIGKILL and now is not None and now > (self.oom_kills or 0):
            reason += ": the kernel ran out of memory (its oom_kill counter rose)"
        return EngineFailed(reason, self.tail(), code)

    def tail(self) -> list[str]:
        """The last lines the process wrote to its standard output and error."""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - 64 * 1024))
        lines = self.log.read().decode(errors="replace").splitlines()
        return lines[-_TAIL_LINES:]

    def report(self, timeout_s: float | None) -> wire.Reported:
        """Usage since the mark, and what engine and process say of themselves."""
        return self.ask(wire.Report(), wire.Reported, timeout_s)
