"""Which shapes a plan has, on which CPUs, and what they need."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import begin, engines, estimate, plan
from harness.calibration import Calibrator
from harness.engines import fake
from harness.errors import ArmbenchError
from harness.machine.placement import default_threads, lay_out, place
from harness.machine.wish import STRATEGIES, Wish
from harness.model.architecture import Dimensions, dimensions
from harness.model.checkpoint import builtin_config
from harness.records.machine import Machine
from harness.records.run import Plan
from harness.units import format_cpu_list
from tests.machine.test_placement import described, machines
from tests.test_bounds import result
from tests.test_plan import server

BASE = {"engine": "fake", "load": "single_stream"}


@pytest.fixture(scope="module")
def sizes() -> Dimensions:
    return dimensions(builtin_config("qwen2.5-0.5b"))


@pytest.fixture(scope="module")
def graviton4(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Two sockets of 96 cores, a memory node each."""
    return described("graviton4-192cpu-2socket", tmp_path_factory.mktemp("trees"))


def resolved(machine: Machine, sizes: Dimensions, **keys: object) -> Plan:
    return plan.resolve(plan.make_spec({**BASE, **keys}), machine, sizes)


def shapes(found: Plan) -> list[str | None]:
    return [case.variant.shape for case in found.cases]


def test_threads_and_instances_multiply_and_what_does_not_fit_is_left_out_with_a_note(
    sizes: Dimensions,
) -> None:
    found = resolved(server(4), sizes, threads=[1, 2, 4], instances=[1, 2])
    assert shapes(found) == ["1", "2×1", "2", "2×2", "4"]
    (note,) = [n for n in found.notes if "left out" in n]
    assert note.startswith("2 × 4 threads left out: plan asks for 2 × 4 threads, but this process")


def test_where_nothing_fits_it_is_an_error(sizes: Dimensions) -> None:
    with pytest.raises(ArmbenchError, match="2 × 4 threads, but this process may run on 4 CPUs"):
        resolved(server(4), sizes, threads=4, instances=2)


def test_instances_share_no_cpu_and_the_driver_has_one_of_its_own(sizes: Dimensions) -> None:
    found = resolved(server(8), sizes, threads=[2, 3], instances=[1, 2])
    for case in found.cases:
        each = found.instance_cpus(case.variant)
        assert len(each) == case.variant.instances
        assert [len(cpus) for cpus in each] == [case.variant.threads] * len(each)
        together = found.cpus_of(case.variant)
        assert len(set(together)) == len(together)
        assert not set(together) & set(found.driver_cpus)
    assert found.driver_cpus


def test_two_instances_of_one_thread_have_the_cpus_of_one_instance_of_two(
    sizes: Dimensions,
) -> None:
    found = resolved(server(4), sizes, threads=[1, 2], instances=[1, 2])
    by_shape = {c.variant.shape: format_cpu_list(found.cpus_of(c.variant)) for c in found.cases}
    assert by_shape["2×1"] == by_shape["2"] == "0-1"


def test_ceilings_are_those_of_the_cpus_that_the_instances_use_together(
    sizes: Dimensions, tmp_path: Path
) -> None:
    one = result()
    one.plan = resolved(server(8), sizes, threads=[1, 2], instances=[1, 2])
    cpusets = Calibrator(one, tmp_path, lambda _: None).cpusets()
    assert list(map(format_cpu_list, cpusets)) == ["0", "0-1", "0-3"]


def test_an_instance_stays_inside_one_memory_node(graviton4: Machine, sizes: Dimensions) -> None:
    found = resolved(graviton4, sizes, threads=60, instances=[2, 3])
    assert shapes(found) == ["2×60"]
    nodes = [set(range(96)), set(range(96, 192))]
    each = [set(cpus) for cpus in found.instance_cpus(found.cases[0].variant)]
    assert [sum(cpus <= node for cpus in each) for node in nodes] == [1, 1]
    assert any("3 × 60 threads left out" in n and "inside one NUMA node" in n for n in found.notes)


def test_by_numa_every_node_has_an_instance_unasked(graviton4: Machine, sizes: Dimensions) -> None:
    found = resolved(graviton4, sizes, placement="numa")
    assert shapes(found) == ["2×96"]
    each = found.instance_cpus(found.cases[0].variant)
    assert sorted(map(format_cpu_list, each)) == ["0-95", "96-191"]


def test_a_file_has_its_instances_run_and_may_let_one_span_nodes(
    graviton4: Machine, sizes: Dimensions, tmp_path: Path
) -> None:
    file = tmp_path / "where.toml"
    file.write_text('instances = ["90-101", "0-11"]\ndriver = "20"\n')
    found = resolved(graviton4, sizes, placement=str(file))
    assert shapes(found) == ["2×12"]
    each = found.instance_cpus(found.cases[0].variant)
    assert list(map(format_cpu_list, each)) == ["90-101", "0-11"]
    assert found.driver_cpus == [20]
    assert "2 × 12 threads: 1 of 2 instances span more than one NUMA node" in found.notes


@pytest.mark.parametrize(("instances", "threads"), [(1, 15), (2, 7), (4, 4), (3, 5), (16, 1)])
def test_threads_default_to_what_lets_every_instance_have_cores(
    instances: int, threads: int
) -> None:
    assert default_threads(server(16), Wish("compact"), instances) == threads


@given(machines(), st.integers(1, 6), st.sampled_from(STRATEGIES))
def test_default_threads_of_several_instances_fit_wherever_one_thread_each_does(
    machine: Machine, instances: int, how: str
) -> None:
    wish = Wish(how)
    try:
        place(machine, 1, wish, instances)
    except ArmbenchError:
        return
    threads = default_threads(machine, wish, instances)
    (one,) = lay_out(machine, [(threads, instances)], wish).places
    assert len({cpu for cpus in one.cpus for cpu in cpus}) == threads * instances


def test_memory_counts_every_instance_but_what_they_share_once(
    sizes: Dimensions, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = resolved(
        server(4), sizes, threads=1, instances=[1, 3], options={"fake": {"memory_bytes": 1000}}
    )
    one, three = found.cases
    assert (plan.case_memory(one, sizes), plan.case_memory(three, sizes)) == (1000, 3000)
    monkeypatch.setattr(fake, "shared_bytes", lambda *_: 900, raising=False)
    assert plan.case_memory(three, sizes) == 1200
    assert engines.shared_bytes("torch", sizes, "float32", {}) >= 0


def test_instances_that_do_not_fit_into_memory_together_are_refused(sizes: Dimensions) -> None:
    machine = server(4)
    machine.limits.memory_bytes = 2**30
    memory = {"fake": {"memory_bytes": 600 * 2**20}}
    begin.check_memory(
        resolved(machine, sizes, threads=1, instances=1, options=memory), machine, sizes
    )
    with pytest.raises(ArmbenchError, match=r"2×1T single_stream needs about 1.17 GiB") as caught:
        begin.check_memory(
            resolved(machine, sizes, threads=1, instances=2, options=memory), machine, sizes
        )
    assert "fewer instances" in (caught.value.hint or "")


def test_the_estimate_shares_the_machine_between_instances(sizes: Dimensions) -> None:
    found = resolved(server(4), sizes, threads=1, instances=[1, 2])
    one, two = (estimate.case_speed(case, sizes, 1e10, 1e11) for case in found.cases)
    assert two.step_s == pytest.approx(2 * one.step_s)
    assert two.prefill_s == pytest.approx(2 * one.prefill_s)


def test_a_plan_from_before_instances_has_one_on_its_first_cpus(sizes: Dimensions) -> None:
    found = resolved(server(4), sizes, threads=[2, 3])
    table = msgspec.to_builtins(found)
    del table["places"]
    for case in table["cases"]:
        del case["variant"]["instances"]
    old = msgspec.convert(table, Plan)
    assert [old.instance_cpus(c.variant) for c in old.cases] == [[[0, 1]], [[0, 1, 2]]]


@pytest.mark.parametrize(("keys", "words"), [({"instances": 0}, "instances is 0")])
def test_instances_must_be_a_positive_number(keys: dict[str, object], words: str) -> None:
    with pytest.raises(ArmbenchError, match=words):
        plan.make_spec({**BASE, **keys})
