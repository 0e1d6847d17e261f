"""One word for what holds a case back, and everything else in a result that is derived.

The rule:

1. The phase that took longer, prefill or decode, decides.
2. Its bound is the ceiling that it needs longer for: reading its bytes, or its arithmetic.
3. From `NEAR` of that bound on, the word is the ceiling's: `bandwidth` or `compute`.
4. Below, it is `placement` where something about the threads' places is known to cost speed:
   threads that share a core or span memory nodes, pages on another node, competitors on the
   engine's CPUs.
5. Else it is `software`: the machine would allow more, and nothing in the way was seen.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness import bounds, metrics, validity
from harness.metrics import Phase, Subject
from harness.records.run import Binding, Case, Result
from harness.units import parse_cpu_list

# Decoders that do little else than read reach 0.6 to 0.9 of what a loop that only reads does.
NEAR = 0.6
_COSTLY = ("placement competitor", "placement pages", "placement memory")


def derive(result: Result) -> None:
    """Compute summary, binding and warnings of `result` anew from what was stored."""
    told = {
        case.id: metrics.told(result.trials, case, bounds.of_case(result, case))
        for case in result.plan.cases
    }
    result.summary = {str(case): metrics.summary(of) for case, of in told.items()}
    found = {str(case.id): of_case(result, case) for case in result.plan.cases}
    result.binding = {case: word for case, word in found.items() if word is not None}
    result.warnings = validity.warnings(result, told)


def of_case(result: Result, case: Case) -> Binding | None:
    """What holds `case` back; None where no ceiling or no valid trial is known."""
    limits = bounds.of_case(result, case)
    trials = metrics.valid_trials(result.trials, case)
    subjects = [Subject(trial=t, case=case, bounds=limits) for t in trials]
    return bind(subjects, strains(result, case))


def bind(subjects: Sequence[Subject], strained: Sequence[str]) -> Binding | None:
    """The binding of trials of one case; `strained` says what is wrong with their placement."""
    limits = subjects[0].bounds if subjects else None
    prefill = _sum([w for s in subjects if (w := metrics.prefill_work(s))])
    decode = _sum([w for s in subjects if (w := metrics.decode_work(s))])
    if limits is None or not (prefill or decode):
        return None
    longer = decode is not None and (prefill is None or decode.seconds >= prefill.seconds)
    work = decode if longer else prefill
    assert work is not None
    reading, computing = limits.seconds(work.bytes, work.ops)
    if reading is None or computing is None:
        return None
    by_reading = reading >= computing
    share = max(reading, computing) / work.seconds
    phase = "decode" if longer else "prefill"
    ceiling = "bandwidth" if by_reading else "compute"
    told = f"{phase}, the longer phase, reached {share:.0%} of the {ceiling} ceiling"
    word = ceiling if share >= NEAR else "placement" if strained else "software"
    if word == "placement":
        told += f"; {'; '.join(strained)}"
    return Binding(word=word, phase=phase, share=share, reason=told)  # type: ignore[arg-type]


def _sum(parts: Sequence[Phase]) -> Phase | None:
    if not parts:
        return None
    return Phase(
        sum(p.tokens for p in parts),
        sum(p.bytes for p in parts),
        sum(p.ops for p in parts),
        sum(p.seconds for p in parts),
    )


def strains(result: Result, case: Case) -> list[str]:
    """What about the placement of `case` is known to cost speed."""
    cpus = set(result.plan.cpus_of(case.variant))
    shape = result.machine.topology
    found = []
    if any(len(cpus & set(core)) > 1 for core in shape.cores):
        found.append("threads share a core")
    if sum(bool(cpus & set(parse_cpu_list(node.cpus))) for node in shape.nodes) > 1:
        found.append("threads span memory nodes")
    messages = [
        f.message
        for t in metrics.valid_trials(result.trials, case)
        for f in t.findings
        if f.name in _COSTLY
    ]
    return found + messages[:1]
