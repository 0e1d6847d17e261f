from __future__ import annotations

import itertools
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ArmbenchError
from harness.load.lengths import parse_lengths
from harness.load.schedule import dealt, make, stream
from harness.load.stored import digest, read, write
from harness.load.summary import summary
from harness.records.load import Arrivals, Planned, ServingLoad, Sharing
from harness.records.run import LoadKind, LoadPoint

ALONE = Sharing()
POISSON = Arrivals(process="poisson", rate=20.0)
TRACE = (
    '{"timestamp": 0, "input_length": 1100, "output_length": 10, "hash_ids": [0, 1, 2]}\n'
    '{"timestamp": 500, "input_length": 1300, "output_length": 8, "hash_ids": [0, 1, 3]}\n'
    '{"timestamp": 900, "input_length": 100, "output_length": 5, "hash_ids": [7]}\n'
)


def load(
    kind: LoadKind = "open",
    requests: int = 40,
    arrivals: Arrivals | None = POISSON,
    into: str = "uniform:10-90",
    out: str = "normal:30/5",
    sharing: Sharing = ALONE,
    duration_s: float | None = None,
) -> LoadPoint:
    return LoadPoint(
        kind=kind,
        batch=1,
        input_tokens=64,
        output_tokens=32,
        requests=requests,
        serving=ServingLoad(
            arrivals=arrivals if kind == "open" else None,
            concurrency=4 if kind == "closed" else None,
            duration_s=duration_s,
            input=parse_lengths(into),
            output=parse_lengths(out),
            sharing=sharing,
        ),
    )


@pytest.fixture
def trace(tmp_path: Path) -> Arrivals:
    path = tmp_path / "trace.jsonl"
    path.write_text(TRACE)
    return Arrivals(process="trace", trace=str(path))


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"question {n}", "output_tokens": 10 + n} for n in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"prompts:{path}"


def test_a_schedule_is_the_same_for_the_same_seed_and_repeat_only() -> None:
    first = make(load(), seed=3, repeat=1)
    assert first == make(load(), seed=3, repeat=1)
    for seed, repeat in ((3, 2), (4, 1)):
        other = make(load(), seed=seed, repeat=repeat)
        assert [one.due_ns for one in other] != [one.due_ns for one in first]
        assert not {one.seed for one in other} & {one.seed for one in first}


def test_every_prompt_has_a_seed_of_its_own() -> None:
    planned = make(load(requests=5000), seed=1, repeat=0)
    assert len({one.seed for one in planned}) == 5000
    assert all(one.prefix is None and one.prefix_tokens == 0 for one in planned)


def test_another_output_length_leaves_arrivals_and_inputs_as_they_were() -> None:
    one = make(load(out="30"), seed=1, repeat=0)
    other = make(load(out="uniform:1-9"), seed=1, repeat=0)
    assert [(a.due_ns, a.input_tokens, a.seed) for a in one] == [
        (b.due_ns, b.input_tokens, b.seed) for b in other
    ]


def test_a_closed_loop_has_no_due_times() -> None:
    planned = make(load("closed"), seed=1, repeat=0)
    assert [one.id for one in planned] == list(range(40))
    assert {one.due_ns for one in planned} == {None}


def test_everything_is_due_at_once_offline() -> None:
    assert {one.due_ns for one in make(load("offline"), seed=1, repeat=0)} == {0}


def test_a_closed_loop_that_ends_by_time_is_a_stream_without_repetition() -> None:
    timed = load("closed", requests=0, duration_s=5.0)
    with pytest.raises(ValueError, match="use stream"):
        make(timed, seed=1, repeat=0)
    many = list(itertools.islice(stream(timed, seed=1, repeat=0), 3000))
    assert len({one.seed for one in many}) == 3000
    assert many[:40] == make(load("closed"), seed=1, repeat=0)


def test_an_open_loop_ends_by_count_or_by_time_whichever_is_first() -> None:
    assert len(make(load(requests=10, duration_s=100), seed=1, repeat=0)) == 10
    timed = make(load(requests=0, duration_s=2.0), seed=1, repeat=0)
    assert 20 < len(timed) < 60
    assert all((one.due_ns or 0) < 2e9 for one in timed)


# Sharing


def test_requests_of_a_group_share_the_asked_part_of_their_beginning() -> None:
    planned = make(load(sharing=Sharing(prefix_share=0.5, groups=3)), seed=1, repeat=0)
    assert len({one.prefix for one in planned}) == 3
    for one in planned:
        assert one.prefix_tokens == round(0.5 * (one.input_tokens or 0))
    again = make(load(sharing=Sharing(prefix_share=0.5, groups=3)), seed=1, repeat=1)
    assert not {one.prefix for one in planned} & {one.prefix for one in again}


def test_turns_follow_one_another_and_carry_all_that_was_said() -> None:
    talk = load(requests=30, sharing=Sharing(turns=3, think_s=1.5))
    planned = make(talk, seed=1, repeat=0)
    assert len(planned) == 30
    for first, second, third in zip(planned[::3], planned[1::3], planned[2::3], strict=True):
        assert first.conversation == second.conversation == third.conversation
        assert (first.turn, second.turn, third.turn) == (0, 1, 2)
        assert first.due_ns is not None
        assert second.due_ns is None
        assert (first.think_ns, second.think_ns) == (0, 1_500_000_000)
        assert (second.input_tokens or 0) > (first.input_tokens or 0) + first.output_tokens
        assert (third.input_tokens or 0) > (second.input_tokens or 0) + second.output_tokens


def test_conversations_offer_the_rate_of_requests_that_was_asked() -> None:
    planned = make(load(requests=6000, sharing=Sharing(turns=3)), seed=1, repeat=0)
    last = max(one.due_ns or 0 for one in planned)
    assert 6000 / (last / 1e9) == pytest.approx(20, rel=0.1)


@given(st.integers(1, 5), st.integers(1, 4))
def test_a_conversation_stays_with_one_sender(turns: int, senders: int) -> None:
    planned = make(load(requests=37, sharing=Sharing(turns=turns)), seed=1, repeat=0)
    parts = [list(dealt(planned, sender, senders)) for sender in range(senders)]
    assert sorted(one.id for part in parts for one in part) == list(range(37))
    homes: dict[int, set[int]] = {}
    for sender, part in enumerate(parts):
        for one in part:
            homes.setdefault(one.id // turns, set()).add(sender)
    assert all(len(home) == 1 for home in homes.values())


# Traces and prompts


def test_a_trace_gives_times_lengths_and_which_blocks_are_shared(trace: Arrivals) -> None:
    planned = make(load(requests=0, arrivals=trace, into="trace", out="trace"), seed=1, repeat=0)
    assert [(p.due_ns, p.input_tokens, p.output_tokens) for p in planned] == [
        (0, 1100, 10),
        (500_000_000, 1300, 8),
        (900_000_000, 100, 5),
    ]
    one, other, third = (p.blocks for p in planned)
    assert one[:2] == other[:2]
    assert len({*one, *other, *third}) == 5
    again = make(load(requests=0, arrivals=trace, into="trace", out="trace"), seed=1, repeat=1)
    assert not set(again[0].blocks) & set(one)


def test_a_trace_may_lend_its_times_only(trace: Arrivals) -> None:
    planned = make(load(requests=2, arrivals=trace, into="64", out="8"), seed=1, repeat=0)
    assert [(p.due_ns, p.input_tokens, p.output_tokens) for p in planned] == [
        (0, 64, 8),
        (500_000_000, 64, 8),
    ]
    assert all(not p.blocks for p in planned)


def test_given_prompts_come_once_each_before_any_comes_again(prompts: str) -> None:
    planned = make(load("closed", requests=12, into=prompts, out=prompts), seed=1, repeat=0)
    texts = [one.prompt for one in planned]
    assert len(set(texts[:5])) == len(set(texts[5:10])) == 5
    assert all(one.input_tokens is None for one in planned)
    assert all(one.prompt == f"question {one.output_tokens - 10}" for one in planned)
    assert summary(planned).repeated == 7
    assert summary(planned).input is None


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (load(into="trace"), "without its arrivals"),
        (load(arrivals=None), "open loop without arrivals"),
        (load(out="prompts:x.jsonl"), "without its prompts"),
        (load(into="prompts:none.jsonl"), "no prompt file at"),
        (load(into="prompts:x", sharing=Sharing(turns=2)), "given prompts share"),
        (
            load(arrivals=Arrivals(process="trace", trace="x"), sharing=Sharing(turns=2)),
            "no conversations",
        ),
    ],
)
def test_a_load_that_cannot_be_made_says_why(point: LoadPoint, message: str) -> None:
    with pytest.raises(ArmbenchError, match=message):
        make(point, seed=1, repeat=0)


def test_a_prompt_without_a_length_asks_for_one(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(ArmbenchError, match="no output_tokens"):
        make(load(into=f"prompts:{path}", out=f"prompts:{path}"), seed=1, repeat=0)
    assert make(load(into=f"prompts:{path}", out="4"), seed=1, repeat=0)[0].output_tokens == 4


# Stored, and shown


def test_a_schedule_survives_its_file(tmp_path: Path, trace: Arrivals) -> None:
    for point in (
        load(sharing=Sharing(prefix_share=0.3, turns=2, think_s=1)),
        load("closed"),
        load(requests=0, arrivals=trace, into="trace", out="trace"),
    ):
        planned = make(point, seed=1, repeat=0)
        write(planned, tmp_path / "schedule.jsonl")
        again = read(tmp_path / "schedule.jsonl")
        assert again == planned
        assert digest(again) == digest(planned)


def test_the_digest_tells_schedules_apart() -> None:
    planned = make(load(), seed=1, repeat=0)
    changed = [*planned[:-1], msgspec.structs.replace(planned[-1], output_tokens=1)]
    assert digest(planned) != digest(changed)
    assert digest(planned) == digest(make(load(), seed=1, repeat=0))


HEAD = '{"armbench_schedule": 1}\n'
ROW = '{"id": 0, "due_ns": 5, "input_tokens": 3, "output_tokens": 4, "seed": 6}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1"),
        (ROW, "line 1: .*armbench_schedule"),
        (HEAD, "no requests"),
        ('{"armbench_schedule": 99}\n' + ROW, "format 99, this armbench knows up to 1"),
        (HEAD + ROW + ROW, "line 3: id 0, expected 1"),
        (HEAD + ROW.replace("5", "-5"), "line 2: a time out of range"),
        (HEAD + ROW.replace('"output_tokens": 4', '"output_tokens": 0'), "line 2: a length"),
        (HEAD + ROW.replace("6", "-6"), "line 2: a seed"),
        (HEAD + ROW.replace('"input_tokens": 3', '"input_tokens": null'), "line 2: neither"),
        (HEAD + ROW[:30], "line 2"),
    ],
)
def test_a_file_that_is_no_schedule_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    path.write_text(text)
    with pytest.raises(ArmbenchError, match=message):
        read(path)


@given(st.integers(0, 300), st.binary(max_size=100))
def test_no_file_makes_reading_raise_anything_but_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int, rest: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "schedule"
    path.write_bytes((HEAD + ROW + ROW.replace('"id": 0', '"id": 1')).encode()[:cut] + rest)
    try:
        assert all(isinstance(one, Planned) for one in read(path))
    except ArmbenchError as error:
        assert str(path) in error.message


def test_a_schedule_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(ArmbenchError, match="cannot be written"):
        write([], tmp_path / "none" / "schedule.jsonl")


def test_the_summary_tells_what_the_schedule_is() -> None:
    planned = make(load(requests=2000, sharing=Sharing(prefix_share=0.25)), seed=1, repeat=0)
    told = summary(planned, rows=3)
    assert told.requests == 2000
    assert told.rate == pytest.approx(20, rel=0.1)
    assert told.duration_s == pytest.approx(100, rel=0.1)
    assert told.gap_cv == pytest.approx(1, abs=0.1)
    assert told.dispersion == pytest.approx(1, abs=0.3)
    assert told.input is not None
    assert (told.input.low, told.input.high) == (10, 90)
    assert told.input.p50 == pytest.approx(50, abs=4)
    assert told.output.mean == pytest.approx(30, abs=1)
    assert told.shared == pytest.approx(0.25, abs=0.01)
    assert told.first == planned[:3]
    assert told.sha256 == digest(planned)


def test_the_summary_of_a_closed_loop_has_no_rate() -> None:
    told = summary(make(load("closed"), seed=1, repeat=0))
    assert (told.rate, told.duration_s, told.gap_cv) == (None, None, None)
