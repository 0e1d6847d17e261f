"""Between armbench and a foreign server: starts it, and leaves nothing of it behind.

Started as `python -m harness.load.supervisor ORDER`, ORDER in JSON. A process of its own, so that
the server ends even where armbench is killed. What the server starts in groups or sessions of its
own stays below this process, which is their subreaper. Reports are lines of JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from harness.load.processes import below
from harness.machine.numa import bind_memory
from harness.records.run import MemoryPolicy

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
_LAST_S = 5.0  # for SIGKILL to work: a process in an uninterruptible wait takes its time


class Order(Struct, kw_only=True):
    """What to run and where: `fd` is the channel to armbench, which hangs up to end it."""

    command: list[str]
    variables: dict[str, str]
    cpus: list[int]
    nodes: list[int]
    fd: int
    parent: int
    to_all: bool
    within_s: float


class Started(Struct, kw_only=True, tag=True):
    """The server runs as process `pid`, its memory policy is `memory`."""

    pid: int
    memory: MemoryPolicy


class NotStarted(Struct, kw_only=True, tag=True):
    """It could not be started."""

    reason: str


class Ended(Struct, kw_only=True, tag=True):
    """Everything has ended: the first process's exit code, and names of those that were killed."""

    code: int | None
    killed: list[str]


Report = Started | NotStarted | Ended


def _in_child() -> None:
    """Before the server's program begins: it dies with the supervisor, and first of all."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):  # not ours to raise in some containers
        Path("/proc/self/oom_score_adj").write_text("1000")


class Supervisor:
    """One server, from its start to the end of the last process that came of it."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.channel = socket.socket(fileno=order.fd)
        self.killed: dict[int, str] = {}
        self.code: int | None = None
        self.woken, self.wake = socket.socketpair()
        self.wake.setblocking(False)
        signal.set_wakeup_fd(self.wake.fileno())
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)

    def run(self) -> None:
        """Start, wait until armbench hangs up or dies or the server ends, and clear away."""
        server = self._start()
        if server is None:
            return
        try:
            self._wait(server)
        finally:
            self._clear(server)
        self._tell(Ended(code=self.code, killed=list(self.killed.values())))

    def _start(self) -> subprocess.Popen[bytes] | None:
        os.sched_setaffinity(0, self.order.cpus)
        memory = bind_memory(self.order.nodes)
        try:
            server = subprocess.Popen(
                self.order.command,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.order.variables},
                process_group=0,
                preexec_fn=_in_child,  # noqa: PLW1509 (there is one thread here)
            )
        except OSError as error:
            self._tell(NotStarted(reason=f"{self.order.command[0]}: {error.strerror}"))
            return None
        self._tell(Started(pid=server.pid, memory=memory))
        return server

    def _wait(self, server: subprocess.Popen[bytes]) -> None:
        ending = [self.channel.fileno(), *_watched(self.order.parent)]
        bell = self.woken.fileno()
        if os.getppid() != self.order.parent:
            return
        while not self._reap(server):
            ready, _, _ = select.select([*ending, bell], [], [])
            if set(ready) & set(ending) or signal.SIGTERM in self.woken.recv(64):
                return

    def _reap(self, server: subprocess.Popen[bytes]) -> bool:
        """Whether the first process has ended; those it left behind are reaped with it."""
        if self.code is None:
            self.code = server.poll()
        with contextlib.suppress(ChildProcessError):
            while (child := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and (
                child.si_pid != server.pid or self.code is not None
            ):
                os.waitpid(child.si_pid, os.WNOHANG)
        return self.code is not None

    def _clear(self, server: subprocess.Popen[bytes]) -> None:
        """SIGTERM as the order says; SIGKILL for what is left when its time is over."""
        deadline = time.monotonic() + self.order.within_s
        asked = self.order.to_all
        self._signal([server.pid] if not asked else [p.pid for p in below(os.getpid())])
        while left := below(os.getpid()):
            ended = self._reap(server)
            if ended and not asked:  # what outlives the first process is asked as well
                asked = True
                self._signal([p.pid for p in left])
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        deadline = time.monotonic() + _LAST_S
        while (left := below(os.getpid())) and time.monotonic() < deadline:
            self.killed |= {p.pid: p.name for p in left}
            self._signal([p.pid for p in left], signal.SIGKILL)
            time.sleep(0.05)
            self._reap(server)
        self._reap(server)

    @staticmethod
    def _signal(pids: list[int], number: signal.Signals = signal.SIGTERM) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _tell(self, report: Report) -> None:
        with contextlib.suppress(OSError):  # armbench may be gone
            self.channel.sendall(msgspec.json.encode(report) + b"\n")


def _watched(pid: int) -> list[int]:
    """A descriptor that is ready when process `pid` has ended; none before Linux 5.3."""
    try:
        return [os.pidfd_open(pid)]
    except OSError:
        return []  # then the channel alone tells


def main(arguments: list[str]) -> int:
    """Run the order; 0."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    Supervisor(msgspec.json.decode(arguments[0], type=Order)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
