"""What a search looks at, on machines that are pretended, and what it cannot try there."""

from __future__ import annotations

from typing import Any

import pytest

from harness import engines, plan
from harness.engines import fake
from harness.errors import ArmbenchError
from harness.machine.wish import parse_wish
from harness.model.architecture import Dimensions, dimensions
from harness.model.checkpoint import builtin_config
from harness.records.machine import Machine
from harness.records.tune import Asked, Candidate, Tune
from harness.tune import begin, space, writing
from harness.tune.candidates import guard_key
from harness.tune.space import Room, Wanted
from harness.units import format_cpu_list
from tests.machine.test_placement import described
from tests.test_plan import server

COMPACT = parse_wish("compact")


@pytest.fixture
def sizes() -> Dimensions:
    return dimensions(builtin_config("qwen2.5-0.5b"))


def asked(**changes: Any) -> Asked:
    given = {"objective": "throughput", "load": "offline", "lengths": (512, 128), "seed": 1}
    return Asked(model="qwen2.5-0.5b", **{**given, **changes})


def found(
    machine: Machine, d: Dimensions, wanted: Wanted | None = None, **changes: Any
) -> space.Space:
    room = Room(machine, COMPACT, changes.pop("memory_bytes", 2**36))
    return space.enumerate_space(asked(**changes), wanted or Wanted(engine=["fake"]), room, d)


def reasons(of: space.Space) -> dict[str, str]:
    return {left.why: left.reason for left in of.left}


def test_threads_are_powers_of_two_and_the_steps_of_the_machine() -> None:
    machine = server(96, nodes=2)
    machine.topology.llc_domains = [f"{n * 12}-{n * 12 + 11}" for n in range(8)]
    assert space.thread_counts(machine, COMPACT) == [1, 2, 4, 8, 12, 16, 32, 48, 64, 96]


def test_hardware_threads_of_one_core_count_once() -> None:
    assert space.thread_counts(server(8, threads=2), COMPACT)[-1] == 8
    assert space.cores(server(8, threads=2)) == 8


def test_a_quota_bounds_what_is_tried() -> None:
    assert space.thread_counts(server(64, quota=4.0), COMPACT)[-1] == 4


def test_threads_times_instances_never_exceed_the_cores(sizes: Dimensions) -> None:
    machine = server(64, nodes=2)
    every = found(machine, sizes).candidates
    shapes = {(one.threads, one.instances) for one in every}
    assert max(t * n for t, n in shapes) == 64
    assert {(64, 1), (32, 2), (16, 4), (16, 2), (16, 1), (1, 64)} <= shapes


@pytest.mark.parametrize(
    ("lists", "shapes"),
    [
        ([[*range(8)]], {(8, 1), (4, 2), (2, 4), (1, 8)}),
        ([[0, 1], [2, 3], [4, 5]], {(2, 1), (2, 3), (1, 3)}),
    ],
)
def test_instances_are_as_many_as_the_placement_names_cpus_for(
    lists: list[list[int]], shapes: set[tuple[int, int]], sizes: Dimensions, tmp_path: Any
) -> None:
    file = tmp_path / "places.toml"
    file.write_text(f"instances = {[format_cpu_list(cpus) for cpus in lists]}")
    room = Room(server(64), parse_wish(str(file)), 2**40)
    wanted = Wanted(engine=["fake"], dtype=["float32"], batch=[1])
    here = space.enumerate_space(asked(placement=str(file)), wanted, room, sizes)
    assert here.left == []
    assert {(one.threads, one.instances) for one in here.candidates} >= shapes
    assert set(here.plans) == set(range(len(here.candidates)))


def test_a_single_stream_is_one_sequence_of_one_instance(sizes: Dimensions) -> None:
    every = found(server(64), sizes, objective="latency", load="single_stream").candidates
    assert {(one.instances, one.batch) for one in every} == {(1, 1)}


def test_what_can_be_tried_has_a_plan_with_its_very_case(sizes: Dimensions) -> None:
    here = found(server(8), sizes)
    assert here.plans
    for index, resolved in here.plans.items():
        one, case = here.candidates[index], resolved.cases[0]
        assert len(resolved.cases) == 1
        assert (case.variant.engine, case.variant.dtype) == (one.engine, one.dtype)
        assert (case.variant.threads, case.variant.instances) == (one.threads, one.instances)
        assert (case.load.kind, case.load.batch) == ("offline", one.batch)


def test_missing_packages_are_a_reason_and_no_crash(
    sizes: Dimensions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "PACKAGES", ("no_such_package",))
    here = found(server(2), sizes)
    assert here.plans == {}
    assert reasons(here) == {"missing": "fake needs no_such_package, not installed here"}


def test_what_needs_more_memory_than_there_is_is_left_out(sizes: Dimensions) -> None:
    here = found(server(2), sizes, memory_bytes=100 * 2**20)  # the fake engine asks for 64 MiB
    single = {i for i, one in enumerate(here.candidates) if one.instances == 1}
    assert set(here.plans) == single
    assert "100 MiB are available" in reasons(here)["memory"]


def test_an_engine_that_cannot_serve_is_no_candidate_of_a_closed_loop(
    sizes: Dimensions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "serves", False)
    assert "can't serve" in reasons(found(server(2), sizes, load="closed"))["missing"]


def test_tunable_options_are_tried_each_by_itself_unless_fixed(
    sizes: Dimensions, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunable = {"row_s": [0.0, 0.1, 0.2], "step_s": [0.5]}
    monkeypatch.setattr(fake, "TUNABLE", tunable, raising=False)
    wanted = Wanted(engine=["fake"], dtype=["float32"], threads=[1], instances=[1], batch=[1])
    options = [one.options for one in found(server(2), sizes, wanted).candidates]
    assert options == [{}, {"row_s": 0.1}, {"row_s": 0.2}, {"step_s": 0.5}]
    wanted.options = {"fake": {"step_s": 0.25}}
    options = [one.options for one in found(server(2), sizes, wanted).candidates]
    assert options[0] == {"step_s": 0.25}
    assert {"step_s": 0.5} not in options
    wanted.tunable = False
    assert len(found(server(2), sizes, wanted).candidates) == 1


def test_what_every_engine_declares_tunable_it_knows() -> None:
    for name in engines.names():
        module = engines.module(name)
        assert set(getattr(module, "TUNABLE_IN", {})) <= set(module.DTYPES)
        for dtype in module.DTYPES:
            for key, values in space.tunable(name, dtype).items():
                assert module.OPTIONS[key] in values
                assert {type(value) for value in values} == {type(module.OPTIONS[key])}


def test_an_option_that_the_machine_cannot_give_is_left_out_with_the_reason(
    sizes: Dimensions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "TUNABLE_IN", {"float32": {"fault": ["", "no such"]}}, raising=False)
    wanted = Wanted(engine=["fake"], threads=[1], instances=[1], batch=[1])
    tried = found(server(2), sizes, wanted)
    assert [one.options for one in tried.candidates] == [{}, {"fault": "no such"}, {}]
    (left,) = tried.left
    assert (left.candidates, left.why) == ([1], "option")
    assert "no such" in left.reason
    assert set(tried.plans) == {0, 2}


def test_unknown_names_are_refused_with_the_nearest(sizes: Dimensions) -> None:
    with pytest.raises(ArmbenchError, match="unknown dtype 'float23'"):
        found(server(2), sizes, Wanted(engine=["fake"], dtype=["float23"]))


def test_one_process_probes_what_differs_in_batch_and_chunk_only(sizes: Dimensions) -> None:
    wanted = Wanted(engine=["fake"], chunk=[32, 64])
    every = found(server(4), sizes, wanted, load="closed").candidates
    for group in space.groups(every):
        keys = {(c.engine, c.dtype, c.threads, c.instances) for c in (every[i] for i in group)}
        assert len(keys) == 1
        assert len({(every[i].batch, every[i].chunk) for i in group}) == len(group) == 6


@pytest.mark.parametrize("load", ["offline", "single_stream", "closed"])
def test_the_written_plan_is_read_back_as_the_winner(
    load: str, sizes: Dimensions, tmp_path: Any
) -> None:
    one = Candidate(
        engine="torch",
        dtype="bfloat16",
        threads=2,
        batch=1 if load == "single_stream" else 4,
        chunk=64 if load == "closed" else None,
        options={"packed": False},
    )
    file = tmp_path / "tuned.toml"
    file.write_text(writing.plan_text(asked(load=load), one))
    resolved = plan.resolve(plan.read_spec(str(file)), server(4), sizes)
    case = resolved.cases[0]
    assert len(resolved.cases) == 1
    assert case.variant.options["packed"] is False
    assert (case.variant.threads, case.load.input_tokens, case.load.output_tokens) == (2, 512, 128)
    if load == "closed":
        assert case.load.serving is not None
        assert case.load.serving.concurrency == 4
        assert case.serve is not None
        assert (case.serve.slots, case.serve.chunk) == (4, 64)
    else:
        assert case.load.batch == one.batch


@pytest.mark.parametrize("name", ["server", "big-little-8cpu"])
def test_a_search_places_engine_and_driver_as_the_written_plan_of_each_candidate(
    name: str, sizes: Dimensions, tmp_path: Any
) -> None:
    """So that the client of a served trial is on no CPU of the engine while others are free."""
    machine = server(64) if name == "server" else described(name, tmp_path)
    wanted = Wanted(engine=["fake"], dtype=["float32"], batch=[4])
    here = found(machine, sizes, wanted, load="closed")
    search = begin.new_plan(asked(load="closed"), here, machine)
    assert len(here.plans) >= 3
    if name == "server":
        assert search.notes[0].startswith("64 threads, 2 × 32 threads, 4 × 16 threads")
    for index, own in here.plans.items():
        variant, one = own.cases[0].variant, here.candidates[index]
        assert search.instance_cpus(variant) == own.instance_cpus(variant)
        assert search.driver_of(variant) == own.driver_cpus
        if one.threads * one.instances < machine.topology.cpus:
            assert not set(search.driver_of(variant)) & set(search.cpus_of(variant))


def test_the_serve_command_has_every_knob_of_the_winner() -> None:
    one = Candidate(
        engine="torch", dtype="float32", threads=2, batch=4, chunk=64, options={"packed": False}
    )
    command, reason = writing.serve_command(asked(load="closed"), one)
    assert reason is None
    assert command == (
        "armbench serve --model qwen2.5-0.5b --engine torch --dtype float32 --threads 2 --slots 4 "
        "--chunk 64 --option packed=false"
    )


def test_a_search_without_an_answer_has_nothing_to_write() -> None:
    tune = Tune(asked=asked(), candidates=[], lengths=(1, 1))
    writing.complete(tune)
    assert tune.answer is None


def test_what_changes_no_number_shares_one_quality_check() -> None:
    def key(dtype: str, **options: Any) -> bytes:
        one = Candidate(engine="onnxruntime", dtype=dtype, threads=2, options=options)
        return guard_key(one)

    assert key("int8", huge_pages=True) == key("int8", spinning=False) == key("int8")
    assert key("int8", int8="dynamic") != key("int8") != key("int4")
