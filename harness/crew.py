"""The engine processes of one case: started, asked and ended together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import TypeVar

from harness.engine_process import EngineFailed, EngineProcess
from harness.engines import EngineSpec

T = TypeVar("T")


class Crew:
    """One process for each of `specs`; where one fails all end. Use as a context manager."""

    def __init__(
        self, specs: Sequence[EngineSpec], start: Callable[[EngineSpec], EngineProcess]
    ) -> None:
        self.specs, self._start = list(specs), start
        self.processes: list[EngineProcess] = []
        self._stack = ExitStack()

    def __enter__(self) -> Crew:
        with ExitStack() as stack:
            self.processes = [stack.enter_context(self._start(spec)) for spec in self.specs]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]

    def kill(self) -> None:
        """End every process at once."""
        for process in self.processes:
            process.kill()

    def each(self, work: Callable[[int, EngineProcess], T]) -> list[T]:
        """What `work` returns for every process, by number; of several, each in a thread at once.

        Raises what the first one raised that failed; the others are killed before.
        """
        if len(self.processes) == 1:
            return [work(0, self.processes[0])]
        with ThreadPoolExecutor(len(self.processes), "instance") as pool:
            futures = [pool.submit(work, n, p) for n, p in enumerate(self.processes)]
            try:
                ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                self.kill()  # or the pool would wait for their answers
                raise
            for number, future in enumerate(futures):
                if future in ended and (error := future.exception()) is not None:
                    self.kill()
                    raise _named(number, error)
            return [future.result() for future in futures]


def _named(number: int, error: BaseException) -> BaseException:
    """What instance `number` raised, with its number where the engine failed."""
    if not isinstance(error, EngineFailed):
        return error
    return EngineFailed(f"instance {number}: {error.reason}", error.stderr_tail, error.exit_code)
