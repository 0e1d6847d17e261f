"""Whether two sides produced the same tokens, by the digests that their results store."""

from __future__ import annotations

from harness.comparing.question import weights
from harness.load.slo import wilson
from harness.records.comparison import Outputs
from harness.records.run import Agreement, Case, Check, Result


def outputs(a: Result, case_a: Case, b: Result, case_b: Case) -> Outputs:
    """Greedy outputs of the two cases, request by request; a reason where they can't be compared.

    Both must come from the same weights and the same prompts. A digest is of a whole output: one
    token that differs early makes all later ones differ, so a share below 1 says how many outputs
    parted somewhere, not how many tokens did.
    """
    first, second = _agreement(a, case_a), _agreement(b, case_b)
    found = Outputs(
        compared=0,
        same=0,
        top1=(first.top1 if first else None, second.top1 if second else None),
        kl=(first.kl_mean if first else None, second.kl_mean if second else None),
    )
    if first and second and first.reference == second.reference:
        found.delta_most = first.delta_mean + second.delta_mean
    found.reason = _why_not(a, case_a, b, case_b)
    if found.reason:
        return found
    left, right = _digests(a, case_a), _digests(b, case_b)
    both = [key for key in left if key in right]
    found.compared = len(both)
    found.same = sum(left[key] == right[key] for key in both)
    if not both:
        found.reason = "no request of both sides has a digest of its output"
    else:
        found.low, found.high = wilson(found.same, found.compared)
    return found


def _agreement(result: Result, case: Case) -> Agreement | None:
    checks: list[Check] = [c for c in result.checks if c.variant == case.variant]
    return checks[0].agreement if checks else None


def _why_not(a: Result, case_a: Case, b: Result, case_b: Case) -> str | None:
    """Why digests say nothing about the same work; None where they do."""
    if a.model.config_sha256 != b.model.config_sha256 or weights(a.model) != weights(b.model):
        return "the weights are not the same"
    if a.model.files != b.model.files:
        return "the weight files are not the same"
    if a.plan.seed != b.plan.seed:
        return f"the prompts are not the same: seed {a.plan.seed} against {b.plan.seed}"
    same = ("batch", "input_tokens", "output_tokens", "requests", "serving")
    if any(getattr(case_a.load, n) != getattr(case_b.load, n) for n in same):
        return "the prompts or the lengths are not the same"
    if "fake" in (case_a.variant.engine, case_b.variant.engine):
        return "the fake engine computes nothing"
    return None


def _digests(result: Result, case: Case) -> dict[tuple[int, int, int], str]:
    """Digest of each output by (repeat, request, slot)."""
    return {
        (trial.repeat, record.id, record.slot): record.output_sha256
        for trial in result.trials
        if trial.case == case.id and trial.state == "ok"
        for record in trial.records
        if record.output_sha256 and record.error is None
    }
