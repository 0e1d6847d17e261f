"""A foreign server by its recipe: started on its CPUs, waited for, watched, and ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from harness.engine_process import EngineFailed, child_environment, oom_kills
from harness.errors import ArmbenchError, unknown_name
from harness.load import recipes, scrape
from harness.load.exposition import Samples
from harness.load.processes import Process, below
from harness.load.programs import HOST, check_model, free_port, resolve, version
from harness.load.recipes import Recipe, Settings
from harness.load.supervisor import Ended, NotStarted, Order, Report, Started
from harness.parent import child_command
from harness.records.load import Endpoint, Target
from harness.records.run import MemoryPolicy
from harness.units import format_cpu_list, format_duration

_TAIL_LINES = 20
_POLL_S = 0.1
_PROGRESS_S = 1.0
_SPARE_S = 15.0  # for the supervisor to say what became of its server, beyond the recipe's own time


class Managed:
    """One server by its recipe. A context manager: on entry it is ready, on exit it is gone.

    `binary` replaces the recipe's program, `extra` follows its arguments, `nodes` binds its
    memory. `progress` is called about once a second with a line on what is being waited for.

    Raises ArmbenchError for what the user can mend: no such program, model or setting, a port
    that is taken. Raises EngineFailed where the server ends, or is not ready in time.
    """

    def __init__(
        self,
        recipe: Recipe,
        settings: Settings,
        *,
        binary: str | None = None,
        port: int | None = None,
        extra: Sequence[str] = (),
        nodes: Sequence[int] = (),
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.recipe, self.settings = recipe, settings
        check_model(recipe, settings.model)
        self.program = resolve(recipe, binary)
        self.nodes = list(nodes)
        self.progress = progress or (lambda _: None)
        self.port = free_port(port)
        known = recipes.values(settings, HOST, self.port)
        self.command = [self.program, *recipes.command_line(recipe, known)[1:], *extra]
        self.variables = recipes.variables(recipe, known)
        self.pid = 0
        self.memory: MemoryPolicy | None = None
        self.ready_s: float | None = None
        self._began = 0.0
        self._oom_kills: int | None = None
        self._unread = b""
        self.ended: Ended | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers: scheme, address and port."""
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Managed:
        self.log = tempfile.TemporaryFile()
        self._oom_kills = oom_kills()
        self._began = time.monotonic()
        try:
            self._start()
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self.log.close()

    def _start(self) -> None:
        self.channel, theirs = socket.socketpair()
        with theirs:
            self._supervisor = subprocess.Popen(
                child_command(
                    "harness.load.supervisor",
                    msgspec.json.encode(self._order(theirs.fileno())).decode(),
                ),
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                pass_fds=[theirs.fileno()],
                env=child_environment({}),
                start_new_session=True,
            )
        report = self._report(_SPARE_S)
        if isinstance(report, NotStarted):
            raise ArmbenchError(
                f"{self.recipe.title} could not be started: {report.reason}",
                hint=self.recipe.install,
            )
        if not isinstance(report, Started):
            raise EngineFailed(f"{self.recipe.title} could not be started", self.tail())
        self.pid, self.memory = report.pid, report.memory

    def _order(self, fd: int) -> Order:
        return Order(
            command=self.command,
            variables=self.variables,
            cpus=sorted({*self.settings.cpus, *self.settings.front_cpus}),
            nodes=self.nodes,
            fd=fd,
            parent=os.getpid(),
            to_all=self.recipe.teardown.to == "all",
            within_s=self.recipe.teardown.within_s,
        )

    def _report(self, timeout_s: float) -> Report | None:
        """The supervisor's next report; None where there is none within `timeout_s`."""
        self.channel.settimeout(timeout_s)
        try:
            while b"\n" not in self._unread:
                if not (part := self.channel.recv(4096)):
                    return None
                self._unread += part
        except OSError:
            return None
        line, _, self._unread = self._unread.partition(b"\n")
        report: Report = msgspec.json.decode(line, type=Report)
        return report

    def _wait_until_ready(self) -> None:
        ready = self.recipe.ready
        deadline = self._began + ready.within_s
        said, spoke = "no answer yet", self._began
        while True:
            if (seen := self._ready()) is None:
                self.ready_s = time.monotonic() - self._began
                return
            said = seen
            self.check("before it was ready")
            now = time.monotonic()
            if now > deadline:
                raise EngineFailed(
                    f"{self.recipe.title} was not ready within {format_duration(ready.within_s)}: "
                    f"{ready.path} gave {said}",
                    self.tail(),
                )
            if now - spoke >= _PROGRESS_S:
                spoke = now
                self.progress(f"{self.recipe.title}: {said}, {format_duration(now - self._began)}")
            time.sleep(_POLL_S)

    def _ready(self) -> str | None:
        """None where the server is ready, else what it said."""
        ready = self.recipe.ready
        try:
            status, body = scrape.get(f"{self.url}{ready.path}", timeout_s=2.0)
        except ArmbenchError:
            return "no answer yet"
        if status == ready.status and _holds(body, ready.json):
            return None
        text = "".join(c for c in body[:100].decode("utf-8", "replace") if c.isprintable())
        return f"{status} {text}".strip()

    def check(self, when: str = "while it was used") -> None:
        """Raise EngineFailed where the server has ended; the reason says `when`."""
        if self.ended is None and isinstance(report := self._report(0.001), Ended):
            self.ended = report
        if self.ended is not None:
            raise EngineFailed(
                f"{self.recipe.title} {self._fate(self.ended.code)} {when}",
                self.tail(),
                self.ended.code,
            )
        if self._supervisor is None or self._supervisor.poll() is not None:
            raise EngineFailed(f"{self.recipe.title} is gone, its supervisor ended {when}")

    def _fate(self, code: int | None) -> str:
        if code is None or code >= 0:
            return f"ended with code {code}"
        fate = f"was killed by {signal.Signals(-code).name}"
        now = oom_kills()
        if code == -signal.SIGKILL and now is not None and now > (self._oom_kills or 0):
            fate += " (the kernel ran out of memory: its oom_kill counter rose)"
        return fate

    def stop(self) -> Ended | None:
        """End the server and all that came of it; what the supervisor said of that."""
        if self._supervisor is None:
            return self.ended
        supervisor, self._supervisor = self._supervisor, None
        with self.channel:
            self.channel.shutdown(socket.SHUT_WR)
            report = self._report(self.recipe.teardown.within_s + _SPARE_S)
            if isinstance(report, Ended):
                self.ended = report
        try:
            supervisor.wait(timeout=_SPARE_S)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()
        if self.ended is None and self.pid:  # nobody saw to it
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return self.ended

    def target(self, endpoint: Endpoint = "completions", *, exact_length: bool = True) -> Target:
        """The endpoint to load, with what the recipe adds to requests. Prompts are text.

        Raises ArmbenchError for an endpoint that the server does not have.
        """
        takes = self.recipe.requests
        if endpoint not in takes.endpoints:
            raise unknown_name(f"endpoint of {self.recipe.title}", endpoint, takes.endpoints)
        return Target(
            url=f"{self.url}{takes.path}",
            endpoint=endpoint,
            model=self.settings.model_name,
            body=json.dumps(takes.always),
            sampling=dict(takes.exact_length) if exact_length else {},
            server=self.recipe.title,
            recipe=self.recipe.name,
        )

    def processes(self) -> list[Process]:
        """Every process of the server, the first one first."""
        return [] if self._supervisor is None else below(self._supervisor.pid)

    def cpu_s(self) -> dict[int, float]:
        """CPU time that each of its processes has used, by pid."""
        return {process.pid: process.cpu_s for process in self.processes()}

    def busiest(self, since: Mapping[int, float] | None = None) -> int:
        """The process that used most CPU time, where given since `cpu_s` was called.

        That is the one whose threads compute, once there was work; before, it may be any.
        """
        used = {pid: s - (since or {}).get(pid, 0.0) for pid, s in self.cpu_s().items()}
        return max(used, key=lambda pid: used[pid], default=self.pid)

    def samples(self) -> Samples | None:
        """Its metrics now; None where the recipe knows of none. Raises as `fetch_metrics` does."""
        if self.recipe.metrics is None:
            return None
        return scrape.fetch_metrics(f"{self.url}{self.recipe.metrics.path}")

    def tail(self) -> list[str]:
        """The last lines that the server wrote to its standard output and error."""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - 64 * 1024))
        return self.log.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]

    def facts(self) -> dict[str, Any]:
        """How it was started, for the result. Runs the program once more, for its version."""
        return {
            "recipe": self.recipe.name,
            "version": version(self.recipe, self.program),
            "command": self.command,
            "variables": [f"{name}={value}" for name, value in self.variables.items()],
            "cpus": format_cpu_list({*self.settings.cpus, *self.settings.front_cpus}),
            "ready_s": self.ready_s,
        }


def _holds(body: bytes, expected: Mapping[str, Any]) -> bool:
    """Whether `body` is a JSON object with every member of `expected`."""
    if not expected:
        return True
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(given, dict) and all(given.get(k) == v for k, v in expected.items())
