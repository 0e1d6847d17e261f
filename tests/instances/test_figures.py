"""Rates of several instances count only while all of them work: definitions, with a fake clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import metrics, validity
from harness.metrics import batched, together
from harness.records.run import Case, InstanceSeen, LoadPoint, RequestRecord, Trial, Variant

MS = 1_000_000


def case(instances: int, outputs: int = 100) -> Case:
    load = LoadPoint(
        kind="single_stream", batch=1, input_tokens=100, output_tokens=outputs, requests=1
    )
    variant = Variant(engine="fake", dtype="float32", threads=1, instances=instances)
    return Case(id=0, variant=variant, load=load)


def record(instance: int, started: int, tokens: list[int], **more: object) -> RequestRecord:
    """A request from instants in milliseconds, due at 0."""
    table = {
        "id": instance,
        "slot": 0,
        "due_ns": 0,
        "sent_ns": 0,
        "input_tokens": 100,
        "instance": instance,
        "started_ns": started * MS,
        "token_ns": [t * MS for t in tokens],
        **more,
    }
    return RequestRecord(**table)  # type: ignore[arg-type]


def trial(*records: RequestRecord) -> Trial:
    count = max(r.instance for r in records) + 1
    made = Trial(
        case=0,
        repeat=0,
        order=0,
        started_at="",
        state="ok",
        records=list(records),
        instances=[InstanceSeen() for _ in range(count)],
    )
    made.window_ns = together.window(made)
    return made


def value(name: str, of: Trial, case_: Case | None = None) -> float | None:
    asked = case_ or case(len(of.instances))
    return metrics.metric(name).value(metrics.Subject(trial=of, case=asked))


def test_a_late_instance_does_not_lend_its_rate_to_the_time_in_which_the_other_was_alone() -> None:
    """Alone the first makes a token every 5 ms, beside the second each of them one every 10 ms."""
    alone = list(range(100, 1001, 5))  # the second begins at 1000
    beside = list(range(1010, 2001, 10))
    late = trial(record(0, 0, alone + beside), record(1, 1000, list(range(1100, 2001, 10))))
    assert late.window_ns == (1000 * MS, 2000 * MS)
    own = [(len(r.token_ns) - 1) / (r.token_ns[-1] - r.token_ns[0]) * 1e9 for r in late.records]
    assert sum(own) == pytest.approx(247, abs=1)  # the error of adding rates
    assert value("decode_tok_per_s", late) == pytest.approx(200)
    assert value("output_tok_per_s", late) == pytest.approx(100 + 91)  # the prefill is inside
    (reason,) = validity.overlap_faults(late, case(2))
    assert "worked together for 1 s of 2 s: instance 1 began 1 s after the first" in reason


def test_instances_that_never_worked_together_have_no_rate_and_are_invalid() -> None:
    apart = trial(
        record(0, 0, list(range(100, 1001, 10))), record(1, 1001, list(range(1100, 2001, 10)))
    )
    assert apart.window_ns is None
    for name in ("prefill_tok_per_s", "decode_tok_per_s", "output_tok_per_s", "window_s"):
        assert value(name, apart) is None, name
    assert "together for 0 s" in validity.overlap_faults(apart, case(2))[0]


def test_an_instance_that_produced_nothing_is_named() -> None:
    one = trial(record(0, 0, [100, 110]))
    assert validity.overlap_faults(one, case(2)) == ["instance 1 produced nothing"]


def test_instances_that_begin_and_end_nearly_together_are_valid() -> None:
    near = trial(record(0, 0, list(range(100, 1001, 10))), record(1, 5, list(range(105, 1006, 10))))
    assert validity.overlap_faults(near, case(2)) == []
    assert value("decode_tok_per_s", near) == pytest.approx(200)
    assert value("prefill_tok_per_s", near) == pytest.approx(2 * 100 / 0.1)


def test_a_prompt_that_could_not_be_cut_in_time_makes_no_trial_invalid() -> None:
    """The second is done at 1700 and passes one more prompt until the first is: to 2600."""
    fine = trial(
        record(0, 0, list(range(1600, 2001, 10))),
        record(1, 0, list(range(1500, 1701, 5))),
        record(1, 1700, [2600], finish="cancelled"),
    )
    assert fine.window_ns == (0, 2000 * MS)
    assert validity.overlap_faults(fine, case(2)) == []


def test_a_phase_counts_only_where_all_instances_are_in_it() -> None:
    """The second prefills while the first decodes: neither phase is what both do at once."""
    turns = trial(
        record(0, 0, [100, *range(110, 201, 10)]), record(1, 0, [200, *range(210, 301, 10)])
    )
    assert value("decode_tok_per_s", turns) is None
    assert value("prefill_tok_per_s", turns) == pytest.approx((100 + 50) / 0.1)


def test_a_request_that_was_cut_off_gives_its_tokens_to_the_rate_but_no_latency() -> None:
    cut = record(0, 600, [700, 710, 720], finish="cancelled")
    mixed = trial(
        record(0, 0, [100, *range(105, 601, 5)]), record(1, 0, [100, *range(107, 724, 7)]), cut
    )
    assert mixed.window_ns == (0, 720 * MS)
    assert len(batched.tpots(metrics.Subject(trial=mixed, case=case(2)))) == 2
    counted = 101 + 3 + 89  # the last token of the second comes at 723
    assert value("output_tok_per_s", mixed) == pytest.approx(counted / 0.720)
    told = validity.length_faults(mixed, case(2, outputs=90))
    assert told == ["1 of 2 requests produced [101] tokens, not 90"]


instants = st.lists(st.integers(1, 30), min_size=2, max_size=30)


@given(st.lists(st.tuples(st.integers(0, 200), instants), min_size=1, max_size=4))
def test_no_rate_counts_more_tokens_than_there_were_or_time_than_all_had(
    given_: list[tuple[int, list[int]]],
) -> None:
    records = []
    for number, (start, gaps) in enumerate(given_):
        tokens = [start + sum(gaps[: n + 1]) for n in range(len(gaps))]
        records.append(record(number, start, tokens))
    made = trial(*records)
    window = together.window(made)
    every = sum(len(r.token_ns) for r in records)
    output = value("output_tok_per_s", made)
    if window is None:
        assert output is None
        return
    seconds = (window[1] - window[0]) / 1e9
    assert output is not None
    assert output * seconds <= every + 1e-6
    spans = together.spans(made).values()
    assert all(low <= window[0] and window[1] <= high for low, high in spans)
    decoded = value("decode_tok_per_s", made)
    passes = [together.Pass(r.instance, r.token_ns, [r]) for r in records]
    shared = together.common(passes, len(records))
    assert sum(b - a for a, b in shared) <= min(p.ns for p in passes)
    if decoded is not None and len(records) > 1:
        assert decoded * sum(b - a for a, b in shared) / 1e9 <= every - len(records) + 1e-6


@given(st.integers(1, 6), instants)
def test_equal_instances_give_the_rate_of_one_times_their_number(
    count: int, gaps: list[int]
) -> None:
    tokens = [100 + sum(gaps[: n + 1]) for n in range(len(gaps))]
    one = trial(record(0, 0, tokens))
    many = trial(*(record(n, 0, tokens) for n in range(count)))
    for name in ("prefill_tok_per_s", "decode_tok_per_s", "output_tok_per_s"):
        single = value(name, one, case(1))
        assert single is not None
        assert value(name, many) == pytest.approx(count * single)


def test_each_instance_keeps_its_own_figures() -> None:
    both = trial(record(0, 0, list(range(100, 1001, 10))), record(1, 0, list(range(100, 1001, 20))))
    rates = [value("decode_tok_per_s", *part) for part in together.by_instance(both, case(2))]
    assert rates == [pytest.approx(100), pytest.approx(50)]
