"""What should not be believed, and what a reader must know beside the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from harness.metrics import BY_NAME, Subject, Told, served, together, valid_trials
from harness.metrics.requests import NEVER_NS
from harness.records.run import Case, KernelPath, PlacementProof, Result, Trial
from harness.units import NS_PER_S

# A ceiling that changes by more than this between two calibrations of a run has drifted.
DRIFT = 0.10
# A produced length that differs from the asked one by more than this spoils the trial.
LENGTH_TOLERANCE = 0.01
# An open loop that sends less than this share of what was due has become a closed one.
OFFERED_LEAST = 0.98
# Above half of its own ceiling a client may measure itself (vllm#39963).
CEILING_MOST = 0.5
# Where slots go in lockstep, a count that is no multiple of them is off by part of a round.
ROUNDS_LEAST = 3
SHORT_GAPS_MOST = 0.05
# A latency that rises through five successive blocks to this ratio is in no steady state.
RISE_MOST = 1.5
# Instances that worked together for less of the longest one's time were not measured together.
OVERLAP_LEAST = 0.8

_RISES = ("ttft_rise", "tpot_rise")


def length_faults(trial: Trial, case: Case) -> list[str]:
    """Requests that produced another number of tokens than asked."""
    if case.load.serving is not None:
        return []  # a warning there: see `served_warnings`
    asked = case.load.output_tokens
    ended = [r for r in trial.records if r.finish != "cancelled"]  # others were cut off as planned
    wrong = [r for r in ended if abs(len(r.token_ns) - asked) > LENGTH_TOLERANCE * asked]
    if not wrong:
        return []
    got = sorted({len(r.token_ns) for r in wrong})
    return [f"{len(wrong)} of {len(ended)} requests produced {got} tokens, not {asked}"]


def overlap_faults(trial: Trial, case: Case) -> list[str]:
    """Why figures of several instances should not be believed: they did not work together."""
    if case.load.serving is not None or case.variant.instances == 1:
        return []
    spans = together.spans(trial)
    if lacking := set(range(case.variant.instances)) - set(spans):
        return [f"instance {', '.join(map(str, sorted(lacking)))} produced nothing"]
    window, longest = together.window(trial), together.longest_ns(trial)
    shared = window[1] - window[0] if window else 0
    if shared >= OVERLAP_LEAST * longest:
        return []
    late = max(spans, key=lambda number: spans[number][0])
    early = min(spans, key=lambda number: spans[number][1])
    first, last = min(s for s, _ in spans.values()), max(e for _, e in spans.values())
    text = (
        f"the instances worked together for {shared / NS_PER_S:.3g} s of {longest / NS_PER_S:.3g} "
        f"s: instance {late} began {(spans[late][0] - first) / NS_PER_S:.3g} s after the first, "
        f"instance {early} ended {(last - spans[early][1]) / NS_PER_S:.3g} s before the last"
    )
    return [text]


def served_faults(trial: Trial, case: Case) -> list[str]:
    """Why the client's figures of a served trial should not be believed, and what to do."""
    subject = Subject(trial=trial, case=case)
    if not trial.records:
        return ["no request was due inside the window: send more, or for longer"]
    reasons = []
    intended, offered = served.intended_rate(subject), served.offered_rate(subject)
    open_loop = case.load.kind == "open"  # in a closed one a request is due when a slot is free
    if open_loop and intended and offered is not None and offered < OFFERED_LEAST * intended:
        reasons.append(
            f"{offered:.3g} of {intended:.3g} intended requests/s were sent: a cap on concurrency "
            "or a slow client held them back; lift --max-concurrency, or give the client more "
            "CPUs (--client-cpus, --senders)"
        )
    if len(trial.records) < (least := _least_requests(case)):
        reasons.append(
            f"{len(trial.records)} requests are too few for the rates of a closed loop: ask for "
            f"{least} at least, {ROUNDS_LEAST} for each slot"
        )
    if idle := _idle_slots(subject):
        reasons.append(
            f"{idle} slots of the closed loop had nothing to send at the end of the window, so "
            "that its rates are too low: ask for more --requests, or for a --duration alone"
        )
    share = served.client_figure("ceiling_share", trial)
    if share is not None and share > CEILING_MOST:
        reasons.append(
            f"the client took {share:.0%} of the token events per second that it can take at "
            "most: it may measure itself; use more --senders on CPUs of their own"
        )
    if all(r.error is not None for r in trial.records):
        reasons.append(f"every request failed: {trial.records[0].error}")
    return reasons


def _least_requests(case: Case) -> int:
    """How many requests have to count where a closed loop ends by count; 0 of other loads."""
    serving = case.load.serving
    if serving is None or case.load.kind != "closed" or serving.duration_s is not None:
        return 0
    return ROUNDS_LEAST * (serving.concurrency or 1)


def _idle_slots(subject: Subject) -> int:
    """Slots of a closed loop by time whose last request was over before the window's end.

    Each of them would have got another one, if there had been any.
    """
    serving, window = subject.case.load.serving, subject.trial.window_ns
    if serving is None or window is None or subject.case.load.kind != "closed":
        return 0
    if serving.duration_s is None or serving.concurrency is None or serving.sharing.think_s:
        return 0
    last: dict[int, int] = {}
    for part in (subject.warmup, subject.records):
        for record, over in zip(part.records, part.over_ns.tolist(), strict=True):
            failed = record.error is not None  # when it ended is not always known
            last[record.slot] = max(last.get(record.slot, 0), NEVER_NS if failed else over)
    return serving.concurrency - sum(over >= window[1] for over in last.values())


def served_warnings(
    trial: Trial, case: Case, figures: Mapping[str, float | None] | None = None
) -> list[tuple[str, str]]:
    """(kind, text) of what must be known of a served trial; `figures` are its metrics, if known."""
    found, subject = [], Subject(trial=trial, case=case)

    def value(name: str) -> float | None:
        return BY_NAME[name].value(subject) if figures is None else figures[name]

    failed = [r.error for r in trial.records if r.error is not None]
    if failed:
        text = f"{len(failed)} of {len(trial.records)} requests failed, the first: {failed[0]}"
        found.append(("failed", text))
    missed = value("length_miss_share")
    if missed is not None and missed > LENGTH_TOLERANCE:
        text = f"{missed:.1%} of the answers have another length than asked"
        found.append(("length", text))
    short = value("short_gap_share")
    if short is not None and short > SHORT_GAPS_MOST:
        text = (
            f"{short:.1%} of the gaps between chunks are below 0.1 ms: chunks came together, so "
            "ITL and ICL say little"
        )
        found.append(("short gaps", text))
    for name in _RISES:
        risen = value(name)
        if risen is not None and risen > RISE_MOST:
            text = (
                f"{BY_NAME[name].label} to {risen:.3g} times what it was by the end of the window: "
                "there is no steady state (is more offered than served?), and figures depend on "
                "how long the window is"
            )
            found.append((name, text))
    notes = [note for r in trial.records if r.http for note in r.http.notes]
    found += [(note, f"{notes.count(note)} answers: {note}") for note in dict.fromkeys(notes)]
    return found


def invalid_reasons(trial: Trial, case: Case) -> list[str]:
    """Why the figures of an ended trial should not be believed; empty is valid."""
    reasons = length_faults(trial, case) + overlap_faults(trial, case)
    if case.load.serving is not None:
        reasons += served_faults(trial, case)
    if trial.proofs == [None] and case.load.serving is not None and case.serve is None:
        pass  # an endpoint's threads, which cannot be seen from here
    else:
        for number, proof in enumerate(trial.proofs):
            head = f"instance {number}: " if trial.instances else ""
            reasons += [head + text for text in placement_faults(proof)]
    reasons += [f.message for f in trial.findings if f.severity == "invalid"]
    return reasons


def placement_faults(proof: PlacementProof | None) -> list[str]:
    """Why one engine process was not where it should be, or was not seen."""
    if proof is None or not proof.threads:
        return ["no thread of the engine was seen: its placement is not proved"]
    return proof.faults


def asked_repeats(result: Result, case: Case) -> int:
    """How often the plan tries `case`: a probe of a search less often than the others."""
    return sum(number == case.id for number, _ in result.plan.order) or result.plan.repeats


def is_probe(result: Result, case: Case) -> bool:
    """Whether a search for the capacity tried `case`: some of its rates are too high by intent."""
    return any(probe.case == case.id for one in result.capacities for probe in one.probes)


def case_valid(result: Result, case: Case) -> bool:
    """Whether more than half of the case's repeats can be believed; one of a probe's attempts."""
    if is_probe(result, case):
        return bool(valid_trials(result.trials, case))
    return 2 * len(valid_trials(result.trials, case)) > asked_repeats(result, case)


def invalid_cases(result: Result) -> list[Case]:
    """Cases whose figures can't be believed."""
    return [case for case in result.plan.cases if not case_valid(result, case)]


def label(case: Case) -> str:
    """A short name of the case for people: `torch float32 2T offline x4`."""
    v, load = case.variant, case.load
    batch = f" x{load.batch}" if load.batch > 1 else ""
    if load.serving is not None:
        arrivals, at_once = load.serving.arrivals, load.serving.concurrency
        rate = "" if arrivals is None or arrivals.rate is None else f" {arrivals.rate:g}/s"
        batch = rate or f" x{at_once}"
    return f"{v.label} {load.kind}{batch}"


def _told(messages: Iterable[tuple[str, str]]) -> list[str]:
    """(kind, message) pairs with each kind told once: its first message, and how often."""
    kinds: dict[str, list[str]] = {}
    for kind, message in messages:
        kinds.setdefault(kind, []).append(message)
    return [m[0] if len(m) == 1 else f"{m[0]} ({len(m)} times)" for m in kinds.values()]


def _case_warnings(result: Result, case: Case, told: Told) -> list[str]:
    figures = {id(trial): known for trial, known in told}
    trials = [t for t in result.trials if t.case == case.id]
    bad = [t for t in trials if t.invalid or t.state == "failed"]
    reasons: list[tuple[str, str]] = []
    notes: list[tuple[str, str]] = []
    for trial in trials:
        kinds = {f.message: f.name for f in trial.findings}
        if trial.state == "failed":
            reasons.append((str(trial.reason), f"failed: {trial.reason}"))
        reasons += [(kinds.get(text, text), text) for text in trial.invalid]
        notes += [(f.name, f.message) for f in trial.findings if f.severity == "warning"]
        if case.load.serving is not None:
            notes += served_warnings(trial, case, figures.get(id(trial)))
        if trial.warmup_stable is False:
            notes.append(("warm-up", "warm-up did not become stable"))
    if is_probe(result, case):
        notes = [(kind, text) for kind, text in notes if kind not in _RISES]
    found = [f"{label(case)}: {text}" for text in _told(notes)]
    if bad:
        why = "; ".join(_told(reasons))
        text = f"{len(bad)} of {len(trials)} trials are left out of the figures: {why}"
        found.insert(0, f"{label(case)}: {text}")
    return found


def drifts(result: Result) -> list[str]:
    """Ceilings that were not the same before and after the trials, in plain words."""
    found = []
    for cpus in dict.fromkeys(c.cpus for c in result.calibrations):
        seen = [c for c in result.calibrations if c.cpus == cpus]
        for name in dict.fromkeys(name for c in seen for name in c.values):
            values = [c.values[name] for c in seen if name in c.values]
            change = (max(values) - min(values)) / max(values)
            if change <= DRIFT:
                continue
            unit, what = ("GB/s", "read bandwidth") if name == "read" else ("Gop/s", name)
            told = " → ".join(f"{v / 1e9:.3g}" for v in values)
            found.append(
                f"the machine drifted by {change:.0%} during the run: {what} of CPUs {cpus} was "
                f"{told} {unit}, so figures from its two ends may differ for that alone"
            )
    return found


def above_ceilings(result: Result) -> list[str]:
    """Figures of the summary that pass the ceiling they are held against: the ceiling is wrong."""
    found = []
    for case in result.plan.cases:
        figures = result.summary.get(str(case.id), {})
        for name, ceiling in (("mbu", "read"), ("mfu", "compute")):
            figure = figures.get(name)
            if figure is None:
                continue
            least = figure.value if figure.low is None else figure.low
            if least > 1:
                found.append(
                    f"{label(case)}: {name.upper()} is {figure.value:.2f}, above its ceiling: the "
                    f"{ceiling} ceiling is too low, which is a fault of armbench or of a "
                    "disturbed measurement of it; take `armbench ceilings` again"
                )
    return found


def _share(path: KernelPath) -> str:
    slow = [k for k in path.kernels if k.reference]
    names = ", ".join(dict.fromkeys(k.name for k in slow))
    total = sum(k.seconds or 0.0 for k in path.kernels)
    taken = sum(k.seconds or 0.0 for k in slow)
    return f"{names} took {taken / total:.0%} of the traced time" if total else f"{names} ran"


def kernel_warnings(result: Result) -> list[str]:
    """Reference kernels that stood in for fast ones, and what else a trace showed."""
    found = []
    for path in result.paths:
        name = path.variant.label
        if any(k.reference for k in path.kernels):
            found.append(f"{name}: a reference kernel stood in for a fast one: {_share(path)}")
        found += [f"{name}: {note}" for note in path.notes]
    return found


def _check_warnings(result: Result) -> Iterator[str]:
    for check in result.checks:
        if check.ok is not True:
            name = f"{check.variant.engine} {check.variant.dtype}"
            what = "could not be checked" if check.ok is None else "is outside the quality bounds"
            yield f"{name} {what}: {check.reason}"


def warnings(result: Result, told: Mapping[int, Told] | None = None) -> list[str]:
    """Everything a reader must know beside the table, most important first.

    `told` has the metrics of the valid trials of each case by its id, where they are known already.
    """
    found: list[str] = []
    if not result.finished:
        missing = len(result.plan.order) - len(result.trials)
        found.append(f"the run is not finished: {missing} of {len(result.plan.order)} trials lack")
    if result.model.weights == "synthetic":
        found.append("synthetic weights: right for speed, meaningless for quality")
    if any(case.variant.engine == "fake" for case in result.plan.cases):
        found.append("the fake engine's figures are its options, not measurements")
    found += dict.fromkeys(_check_warnings(result))
    found += above_ceilings(result)
    found += kernel_warnings(result)
    found += drifts(result)
    found += result.plan.notes
    for case in result.plan.cases:
        found += _case_warnings(result, case, (told or {}).get(case.id, []))
    return found
