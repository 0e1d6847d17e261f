from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import fit, plan
from harness.errors import ArmbenchError
from harness.fit import Speed
from harness.load.prompts import prompt_set_digest, prompts
from harness.machine import placement
from harness.model.architecture import Dimensions, dimensions
from harness.model.checkpoint import builtin_config
from harness.records.machine import Cloud, Cpu, Limits, Machine, Memory, NumaNode, Topology
from harness.records.run import Case, LoadPoint, Variant


def server(
    cores: int,
    *,
    threads: int = 1,
    nodes: int = 1,
    allowed: str | None = None,
    quota: float | None = None,
) -> Machine:
    """A server of `cores` cores: siblings are numbered after all cores, as on most x86."""
    per_node = cores // nodes
    siblings = [[c + t * cores for t in range(threads)] for c in range(cores)]
    return Machine(
        architecture="aarch64",
        cpu=Cpu(),
        topology=Topology(
            cpus=cores * threads,
            online=f"0-{cores * threads - 1}",
            physical_cores=cores,
            threads_per_core=threads,
            packages=1,
            numa_nodes=nodes,
            cores=siblings,
            nodes=[
                NumaNode(id=n, cpus=f"{n * per_node}-{(n + 1) * per_node - 1}")
                for n in range(nodes)
            ],
        ),
        memory=Memory(total_bytes=2**36),
        limits=Limits(allowed_cpus=allowed or f"0-{cores * threads - 1}", cpu_quota=quota),
        cloud=Cloud(),
    )


@pytest.fixture
def sizes() -> Dimensions:
    return dimensions(builtin_config("qwen2.5-0.5b"))


def test_the_shipped_plans_are_sound(sizes: Dimensions) -> None:
    for name in plan.shipped():
        assert plan.resolve(plan.read_spec(name), server(4), sizes).cases


def test_the_quick_plan_is_the_main_job() -> None:
    spec = plan.read_spec("quick")
    assert spec.engine == ["torch", "onnxruntime"]
    assert (spec.load, spec.batch) == (["single_stream", "offline"], [4])
    assert (spec.input_tokens, spec.output_tokens, spec.repeats) == ([512], [128], 3)


def test_lists_make_the_cartesian_product(sizes: Dimensions) -> None:
    spec = plan.make_spec(
        {"engine": "torch", "dtype": ["float32", "bfloat16"], "threads": [1, 2], "batch": [2, 8]}
    )
    resolved = plan.resolve(spec, server(4), sizes)
    assert len(resolved.cases) == 2 * 2 * (1 + 2)
    assert len(resolved.order) == 3 * len(resolved.cases)


def test_every_round_of_the_order_holds_every_case_once(sizes: Dimensions) -> None:
    resolved = plan.resolve(plan.make_spec({"repeats": 4}), server(4), sizes)
    ids = sorted(case.id for case in resolved.cases)
    for repeat in range(4):
        assert sorted(c for c, r in resolved.order if r == repeat) == ids
    rounds = [[c for c, r in resolved.order if r == repeat] for repeat in range(4)]
    assert len({tuple(r) for r in rounds}) > 1


def test_an_unknown_key_gets_the_nearest_one() -> None:
    with pytest.raises(ArmbenchError) as caught:
        plan.make_spec({"thread": 2})
    assert "unknown plan key 'thread'" in caught.value.message
    assert "did you mean 'threads'" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"engine": "pytorch"}, "unknown engine 'pytorch'"),
        ({"load": "closd"}, "unknown load"),
        ({"repeats": 0}, "repeats is 0"),
        ({"threads": [0]}, "threads is 0"),
        ({"batch": []}, "batch is an empty list"),
        ({"repeats": "many"}, "repeats"),
        ({"options": {"torch": {"packd": True}}}, "unknown option of engine torch"),
        ({"options": {"torch": {"packed": 3}}}, "option packed"),
        ({"dtype": "int3"}, "unknown dtype"),
        ({"time_budget": "soon"}, "not a duration"),
        ({"input_tokens": 40000}, "exceed the model's context"),
        ({"placement": "0-99"}, "may run on"),
        ({"exporter": "onnxx"}, "unknown exporter"),
    ],
)
def test_what_cannot_be_run_is_refused_in_plain_words(
    table: dict[str, object], words: str, sizes: Dimensions
) -> None:
    with pytest.raises(ArmbenchError, match=words):
        plan.resolve(plan.make_spec(table), server(4), sizes)


def test_more_threads_than_allowed_cpus_says_how_many_there_are(sizes: Dimensions) -> None:
    spec = plan.make_spec({"threads": 96})
    with pytest.raises(
        ArmbenchError, match=r"96 threads, but this process may run on 8 CPUs \(0-7\)"
    ):
        plan.resolve(spec, server(64, allowed="0-7"), sizes)


def test_a_dtype_that_one_engine_lacks_leaves_that_engine_out(sizes: Dimensions) -> None:
    spec = plan.make_spec({"dtype": ["float32", "bfloat16"]})
    resolved = plan.resolve(spec, server(4), sizes)
    found = {(c.variant.engine, c.variant.dtype) for c in resolved.cases}
    assert ("onnxruntime", "bfloat16") not in found
    assert ("torch", "bfloat16") in found
    assert any("onnxruntime does not compute in bfloat16" in note for note in resolved.notes)


def test_a_plan_file_may_override_and_be_overridden(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('engine = "torch"\nthreads = 2\n')
    spec = plan.read_spec(str(file), {"threads": [3]})
    assert (spec.name, spec.engine, spec.threads) == ("mine", ["torch"], [3])


def test_malformed_toml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("engine = [")
    with pytest.raises(ArmbenchError, match=r"bad\.toml is not valid TOML"):
        plan.read_spec(str(file))


# Placement


def test_threads_default_to_physical_cores_not_to_hardware_threads() -> None:
    assert placement.default_threads(server(4, threads=2)) == 4
    assert placement.place(server(4, threads=2), 4).cpus == [0, 1, 2, 3]


def test_a_large_machine_leaves_one_core_to_the_driver() -> None:
    machine = server(16)
    assert placement.default_threads(machine) == 15
    where = placement.place(machine, 15)
    assert where.driver == [15]
    assert not where.shared


def test_threads_stay_in_one_numa_node_by_default() -> None:
    machine = server(64, nodes=2)
    assert placement.default_threads(machine) == 32
    where = placement.place(machine, 32)
    assert where.cpus == list(range(32))
    assert where.driver == list(range(32, 64))
    assert any("more than one NUMA node" in n for n in placement.place(machine, 40).notes)


def test_the_quota_of_a_container_bounds_the_threads() -> None:
    assert placement.default_threads(server(64, quota=3.5)) == 3


def test_the_driver_takes_no_sibling_of_an_engine_core_while_another_is_free() -> None:
    where = placement.place(server(4, threads=2), 2)
    assert where.driver == [2, 3, 6, 7]


def test_with_no_cpu_to_spare_the_driver_shares_and_says_so() -> None:
    where = placement.place(server(2), 2)
    assert where.shared
    assert any("shares" in note for note in where.notes)


@given(st.integers(1, 32), st.integers(1, 2), st.sampled_from([1, 2]), st.data())
def test_a_placement_gives_every_thread_a_cpu_of_its_own(
    cores: int, threads: int, nodes: int, data: st.DataObject
) -> None:
    machine = server(cores * nodes, threads=threads, nodes=nodes)
    count = data.draw(st.integers(1, machine.topology.cpus))
    where = placement.place(machine, count)
    assert len(set(where.cpus)) == count
    assert where.driver
    assert where.shared == bool(set(where.driver) & set(where.cpus))


# Lengths and prompts


def case(number: int, outputs: int = 128, batch: int = 1) -> Case:
    load = LoadPoint(
        kind="single_stream", batch=batch, input_tokens=512, output_tokens=outputs, requests=1
    )
    variant = Variant(engine="torch", dtype="float32", threads=1)
    return Case(id=number, variant=variant, load=load)


def test_lengths_shrink_alike_until_the_budget_holds(sizes: Dimensions) -> None:
    resolved = plan.resolve(plan.make_spec({"time_budget": "2m"}), server(4), sizes)
    speeds = {c.id: Speed(1.0, 1.0 + c.id, 0.1 + 0.1 * c.id) for c in resolved.cases}
    asked = resolved.cases[0].load
    seconds = fit.fit(resolved, speeds)
    assert seconds <= 120
    assert len({(c.load.input_tokens, c.load.output_tokens) for c in resolved.cases}) == 1
    assert resolved.cases[0].load.output_tokens < asked.output_tokens
    assert any("were shortened from pp512/tg128" in note for note in resolved.notes)


def test_a_budget_that_is_large_enough_changes_nothing(sizes: Dimensions) -> None:
    resolved = plan.resolve(plan.make_spec({"time_budget": "none"}), server(4), sizes)
    fit.fit(resolved, {c.id: Speed(100.0, 100.0, 100.0) for c in resolved.cases})
    assert {c.load.output_tokens for c in resolved.cases} == {128}
    assert not any("shortened" in note for note in resolved.notes)


def test_no_two_prompts_begin_alike_and_repeats_differ() -> None:
    load = LoadPoint(kind="offline", batch=4, input_tokens=8, output_tokens=1, requests=16)
    rows = [
        tuple(row)
        for repeat in range(-1, 3)
        for batch in prompts(load, seed=1, repeat=repeat, vocabulary=4096)
        for row in batch
    ]
    assert len(set(rows)) == len(rows)
    first = prompts(load, seed=1, repeat=0, vocabulary=4096)
    firsts = [row[0] for batch in first for row in batch]
    assert len(set(firsts)) == len(firsts)


def test_prompts_depend_on_the_seed_alone_and_the_set_has_one_hash(sizes: Dimensions) -> None:
    machine = server(4)
    digests = [
        prompt_set_digest(plan.resolve(plan.make_spec(table), machine, sizes), 4096)
        for table in ({}, {"engine": "torch"}, {"seed": 2}, {"repeats": 2})
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
