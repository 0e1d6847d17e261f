"""The conductor's end of one sender process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence

from harness.errors import ArmbenchError
from harness.load import messages
from harness.load.messages import Closed
from harness.parent import child_command
from harness.records.load import Planned

_SETUP_TIMEOUT_S = 60.0
_TAIL_BYTES = 2000


class SenderProcess:
    """One process on `cpu`, and the requests that it is to send."""

    def __init__(self, cpu: int, setup: messages.Setup) -> None:
        self.number = setup.sender
        self.cpu = cpu
        self.slots = 0
        self.salt = ""
        self.units: Iterator[list[Planned]] = iter(())  # behind `unit`; a conversation is one
        self.unit: list[Planned] | None = None  # the next to be told
        self.dealt: list[Planned] = []
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        self.channel, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                child_command("harness.load.sender", str(theirs.fileno()), str(cpu)),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.tell(setup)

    def deal(self, units: Iterator[list[Planned]]) -> None:
        """What is to be sent in the next load, drawn as it is needed."""
        self.units, self.unit, self.dealt = units, next(units, None), []

    def tell(self, order: messages.Order) -> None:
        """Send an order. That a process is dead shows when it is heard."""
        try:
            messages.send(self.channel, order)
        except Closed:
            pass

    def hear(self) -> messages.Word:
        """The next word. Raises Closed where the process is gone."""
        return messages.receive(self.channel)

    def hear_ready(self) -> None:
        """Wait until it is ready. Raises ArmbenchError where it refuses, dies or hangs."""
        self.channel.settimeout(_SETUP_TIMEOUT_S)
        try:
            word = self.hear()
        except Closed:
            raise ArmbenchError(f"the load client did not start: {self.end()}") from None
        self.channel.settimeout(None)
        if isinstance(word, messages.Refused):
            raise ArmbenchError(word.message, hint=word.hint)

    def feed(self, bodies: Callable[[Sequence[Planned]], list[bytes]], requests: int) -> None:
        """Send whole units of `requests` requests at least, if there are as many, in batches."""
        left = requests
        while True:
            batch = messages.Batch(self.salt, [], [])
            size = 0
            while self.unit is not None and left > 0:
                unit, self.unit = self.unit, next(self.units, None)
                made = bodies(unit)
                batch.planned += unit
                batch.bodies += made
                left -= len(unit)
                size += sum(map(len, made))
                if len(batch.bodies) >= messages.BATCH or size > messages.BATCH_BYTES:
                    break
            batch.last = self.unit is None
            self.dealt += batch.planned
            self.tell(batch)
            if batch.last or left <= 0:
                return

    def end(self) -> str:
        """Make sure that it ends; how it did, in words."""
        try:
            code = self.process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _TAIL_BYTES))
        lines = self._log.read().decode(errors="replace").splitlines()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        said = " ".join(line for line in lines[-3:] if line.strip())
        return f"client process {self.number} {how}{': ' if said else ''}{said}"

    def close(self) -> None:
        """Hang up, and make sure that it ends."""
        self.channel.close()
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()
