"""Short timings of candidates that differ in batch only: their processes are loaded once."""

from __future__ import annotations

from msgspec import Struct

from harness import wire
from harness.bounds import as_stored
from harness.crew import Crew
from harness.engine_process import EngineProcess
from harness.load import driver
from harness.load.prompts import prompts
from harness.model.footprint import ModelShape
from harness.records.model import Dimensions
from harness.records.run import LoadPoint, RequestRecord, Stored
from harness.records.tune import Probe

_TIMEOUT_S = 1800.0
# What one part of a probe, prompts or steps, may take: prompts are shortened to it.
_PART_S = 2.5
_WARM_TOKENS = 16
_WARM_STEPS = 3
_STEPS = 8  # of the first probe; each further one takes twice as many
_STEPS_LEAST = 4


def probe_seconds(seen: Probe, lengths: tuple[int, int]) -> float:
    """Estimated seconds of a first probe of a candidate with the speed that `seen` tells."""
    warm = 2 * (seen.prefill_s * _WARM_TOKENS / lengths[0] + _WARM_STEPS * seen.step_s)
    return warm + min(seen.prefill_s, _PART_S) + min(_STEPS * seen.step_s, _PART_S)


class Job(Struct, kw_only=True):
    """What a probe is brought to: the asked lengths, and how the engine keeps the model."""

    lengths: tuple[int, int]
    sizes: Dimensions
    stored: Stored | None
    seed: int
    rung: int


class Prober:
    """Times batches in the processes of `crew`, which it loads.

    Raises EngineFailed or ArmbenchError as soon as one of them can't go on.
    """

    def __init__(self, job: Job, crew: Crew) -> None:
        self.job, self.crew = job, crew
        loaded = crew.each(
            lambda n, process: process.ask(wire.Load(crew.specs[n]), wire.Loaded, _TIMEOUT_S)
        )
        self.load_s = max(one.seconds for one in loaded)

    def probe(self, candidate: int, batch: int) -> Probe:
        """Time `batch` sequences in every instance at once."""
        context = sum(self.job.lengths)
        room = wire.Allocate(batch, context)
        self.crew.each(lambda _, process: process.ask(room, wire.Done, _TIMEOUT_S))
        for _ in range(2):  # the first request of a process may pay for more than its own work
            warm = self._time(
                batch, min(_WARM_TOKENS, self.job.lengths[0]), self._most(_WARM_STEPS)
            )
        tokens, steps = self._tokens(warm[0]), self._steps(warm[1])
        prefill_s, step_s = self._time(batch, tokens, steps)
        if prefill_s < _PART_S / 2:  # the first of a shape may pay for more than its own work
            prefill_s = min(prefill_s, self._time(batch, tokens, 1)[0])
        return Probe(
            candidate=candidate,
            rung=self.job.rung,
            prefill_s=prefill_s * self._longer(tokens),
            step_s=step_s * self._deeper(tokens + steps / 2, batch),
            load_s=self.load_s,
            input_tokens=tokens,
        )

    def _tokens(self, warm_s: float) -> int:
        """Input tokens of each sequence: as asked, or as many as their time allows."""
        asked = self.job.lengths[0]
        least = min(_WARM_TOKENS, asked)
        return max(least, min(asked, int(least * _PART_S / max(warm_s, 1e-9))))

    def _steps(self, warm_s: float) -> int:
        wanted = self._most(_STEPS << self.job.rung)
        return max(min(_STEPS_LEAST, wanted), min(wanted, int(_PART_S / max(warm_s, 1e-9))))

    def _most(self, steps: int) -> int:
        """`steps`, or as many as the asked lengths have room for; one at least."""
        return min(steps, max(self.job.lengths[1] - 1, 1))

    def _longer(self, tokens: int) -> float:
        """How much more work the asked prompt is than one of `tokens`."""
        shape = ModelShape(self.job.sizes)
        return shape.prefill_flops(self.job.lengths[0]) / shape.prefill_flops(tokens)

    def _deeper(self, context: float, batch: int) -> float:
        """How much more a step reads at the asked context than at this one."""
        if self.job.stored is None:
            return 1.0
        cost = as_stored(self.job.sizes, self.job.stored)
        inputs, outputs = self.job.lengths
        asked = cost.step_bytes(inputs + outputs / 2, batch)
        return max(1.0, asked / cost.step_bytes(context, batch))

    def _time(self, batch: int, tokens: int, steps: int) -> tuple[float, float]:
        """(prefill seconds, seconds of a step): means over the instances, which run at once."""
        job = self.job
        load = LoadPoint(
            kind="offline", batch=batch, input_tokens=tokens, output_tokens=steps + 1, requests=1
        )
        rows = prompts(load, seed=job.seed, repeat=-1, vocabulary=job.sizes.vocabulary)[0]

        def send(_: int, process: EngineProcess) -> list[RequestRecord]:
            return driver.send(process, rows, steps + 1, first_id=0, timeout_s=_TIMEOUT_S)

        seen = [driver.phases(records[0]) for records in self.crew.each(send)]
        return (
            sum(prefill for prefill, _ in seen) / len(seen),
            sum(step for _, step in seen) / len(seen),
        )
