"""A server in a process of its own: started with everything resolved, watched, ended."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
from pathlib import Path

import msgspec

from harness.engine_process import EngineFailed, child_environment
from harness.errors import ArmbenchError
from harness.parent import child_command
from harness.serving.options import NotReady, Ready, Service
from harness.units import format_duration

_TAIL_LINES = 20
_DRAIN_SPARE_S = 10.0
_ANSWER = msgspec.json.Decoder(Ready | NotReady)


class ServerProcess:
    """`python -m harness.serving` for `service`, which dies with this process.

    Use as a context manager, which kills what is left at the end.
    """

    def __init__(self, service: Service) -> None:
        self.service = msgspec.structs.replace(service, tied=True)
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        with tempfile.NamedTemporaryFile(suffix=".json", delete=False) as file:
            file.write(msgspec.json.encode(self.service))
        self.file = Path(file.name)
        self.answer, theirs = os.pipe()
        try:
            self.process = subprocess.Popen(
                child_command("harness.serving", file.name, str(theirs)),
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                pass_fds=[theirs],
                env=child_environment({}),
                start_new_session=True,
            )
        finally:
            os.close(theirs)

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()  # its engine process dies with it
            self.process.wait()
        os.close(self.answer)
        self.log.close()
        self.file.unlink(missing_ok=True)

    def ready(self, timeout_s: float) -> Ready:
        """Wait until it listens.

        Raises ArmbenchError where the user can mend what it says, EngineFailed where it died or
        took longer than `timeout_s`.
        """
        said = self._said(timeout_s)
        if isinstance(said, NotReady):
            self.process.wait()
            if said.mendable:
                raise ArmbenchError(said.error, hint=said.hint)
            raise EngineFailed(said.error, (said.hint or "").splitlines(), self.process.returncode)
        return said

    def _said(self, timeout_s: float) -> Ready | NotReady:
        with selectors.DefaultSelector() as selector:
            selector.register(self.answer, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                self.process.kill()
                self.process.wait()
                reason = f"the server was not ready within {format_duration(timeout_s)}: killed"
                raise EngineFailed(reason, self.tail(), self.process.returncode)
        data = bytearray()
        while part := os.read(self.answer, 1 << 16):
            data += part
        if not data:
            code = self.process.wait()
            raise EngineFailed(f"the server ended with code {code}", self.tail(), code)
        answer: Ready | NotReady = _ANSWER.decode(data)
        return answer

    def stop(self) -> int:
        """Tell it to end; its exit code. What it has left to do has the service's `drain_s`."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(self.service.drain_s + _DRAIN_SPARE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def tail(self) -> list[str]:
        """The last lines it wrote to its standard output and error."""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - 64 * 1024))
        return self.log.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
