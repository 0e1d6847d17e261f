"""Threads are placed where the topology says they run best, on any topology."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ArmbenchError
from harness.machine.detect import detect
from harness.machine.placement import Placement, default_instances, default_threads, lay_out, place
from harness.machine.wish import STRATEGIES, Wish, parse_shape, parse_wish
from harness.records.machine import (
    Cloud,
    Cluster,
    Cpu,
    Limits,
    Machine,
    Memory,
    NumaNode,
    Topology,
)
from harness.reports.placement import placement_lines, placement_text
from harness.units import format_cpu_list, parse_cpu_list
from tests.test_run import armbench

from . import trees


def described(name: str, folder: Path) -> Machine:
    return detect(trees.write_tree(folder / name, trees.load(name)))


@pytest.fixture(scope="module")
def milan(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Two nodes of two cache domains of eight cores of two hardware threads."""
    return described("milan-64cpu-2node", tmp_path_factory.mktemp("trees"))


@pytest.fixture(scope="module")
def graviton4(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return described("graviton4-192cpu-2socket", tmp_path_factory.mktemp("trees"))


def lists(placement: Placement) -> list[str]:
    return [format_cpu_list(i.cpus) for i in placement.instances]


# The three strategies


def test_compact_fills_one_cache_domain_after_the_other(milan: Machine) -> None:
    where = place(milan, 4, Wish("compact"), instances=8)
    assert lists(where) == ["0-3", "4-7", "8-11", "12-15", "16-19", "20-23", "24-27", "28-31"]


def test_an_instance_that_no_rest_of_a_domain_holds_starts_a_new_one(milan: Machine) -> None:
    assert lists(place(milan, 6, Wish("compact"), instances=4)) == ["0-5", "8-13", "16-21", "24-29"]


def test_spread_gives_each_instance_a_domain_of_its_own_nodes_in_turn(milan: Machine) -> None:
    assert lists(place(milan, 4, Wish("spread"), instances=4)) == ["0-3", "16-19", "8-11", "24-27"]


def test_spread_lets_the_threads_of_a_single_instance_take_the_domains_in_turn(
    milan: Machine,
) -> None:
    assert place(milan, 4, Wish("spread")).cpus == [0, 8, 1, 9]


def test_numa_gives_each_instance_a_whole_node(milan: Machine) -> None:
    wish = Wish("numa")
    assert (default_instances(milan, wish), default_threads(milan, wish)) == (2, 16)
    assert lists(place(milan, 16, wish, instances=2)) == ["0-15", "16-31"]
    with pytest.raises(ArmbenchError, match="do not fit"):
        place(milan, 4, wish, instances=3)


def test_hardware_threads_are_used_only_where_cores_lack_and_then_by_whole_cores(
    milan: Machine,
) -> None:
    assert place(milan, 32).cpus == list(range(32))
    where = place(milan, 16, Wish("compact"), instances=4)
    assert lists(where) == ["0-7,32-39", "8-15,40-47", "16-23,48-55", "24-31,56-63"]
    assert "64 threads on 32 physical cores: some share a core" in where.notes


def test_instances_may_be_more_than_cores(milan: Machine) -> None:
    assert len(lists(place(milan, 1, Wish("compact"), instances=64))) == 64


def test_memory_is_bound_to_the_nodes_of_the_cpus_where_there_are_several(
    graviton4: Machine, tmp_path: Path
) -> None:
    where = place(graviton4, 96, Wish("compact"), instances=2)
    assert [i.memory_nodes for i in where.instances] == [[0], [1]]
    assert place(graviton4, 100).instances[0].memory_nodes == [0, 1]
    single = described("yitian-710-64cpu", tmp_path)
    assert place(single, 8).instances[0].memory_nodes == []


def test_a_run_stays_inside_one_kind_of_cores_and_takes_the_stronger(tmp_path: Path) -> None:
    phone = described("big-little-8cpu", tmp_path)
    assert default_threads(phone) == 4
    where = place(phone, 4)
    assert (where.cpus, where.driver) == ([4, 5, 6, 7], [0, 1, 2, 3])
    with pytest.raises(ArmbenchError, match="stays inside one kind"):
        place(phone, 6)
    mixed = place(phone, 6, parse_wish("0-5"))
    assert any("different kinds" in note for note in mixed.notes)


def test_fewer_threads_keep_the_stronger_cores_where_more_need_the_weaker(tmp_path: Path) -> None:
    """Two strong cores and six weak ones: four threads fit only the weak."""
    phone = described("big-little-8cpu", tmp_path)
    weak, strong = sorted(phone.cpu.clusters, key=lambda c: c.max_mhz or 0)
    weak.cpus, strong.cpus = "0-5", "6-7"
    found = {one.threads: one.cpus for one in lay_out(phone, [(1, 1), (2, 1), (4, 1)]).places}
    assert found == {4: [[0, 1, 2, 3]], 2: [[6, 7]], 1: [[6]]}


def test_the_driver_goes_outside_the_engines_cache_domain(milan: Machine) -> None:
    assert set(place(milan, 8).driver) == set(range(64)) - {*range(8), *range(32, 40)}


def test_an_instance_that_fits_into_no_node_is_refused_not_torn_apart(milan: Machine) -> None:
    with pytest.raises(ArmbenchError, match="3 × 10 threads do not fit"):
        place(milan, 10, Wish("compact"), instances=3)


# Wishes


def test_a_list_is_taken_in_the_order_it_is_written(milan: Machine) -> None:
    wish = parse_wish("8-11,0-3")
    assert default_threads(milan, wish) == 8
    assert place(milan, 8, wish).cpus == [8, 9, 10, 11, 0, 1, 2, 3]
    assert lists(place(milan, 4, wish, instances=2)) == ["8-11", "0-3"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("two.toml", 'instances = ["0-3", "16-19"]\ndriver = "15"\n'),
        ("two.json", '{"instances": ["0-3", "16-19"], "driver": "15"}'),
    ],
)
def test_a_file_lists_the_cpus_of_each_instance(
    name: str, text: str, tmp_path: Path, milan: Machine
) -> None:
    (tmp_path / name).write_text(text)
    wish = parse_wish(str(tmp_path / name))
    where = place(milan, default_threads(milan, wish), wish, default_instances(milan, wish))
    assert lists(where) == ["0-3", "16-19"]
    assert (where.wish, where.driver, where.shared) == (name, [15], False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lists no instances"),
        ("instances = 3", "lists no instances"),
        ("instances = []", "lists no instances"),
        ("instances = [3]", "instance 0 is '3', no CPU list"),
        ('instances = ["0-3", "x"]', "instance 1 is 'x', not a CPU list"),
        ('instances = [""]', "names no CPU"),
        ('instances = ["0-99999"]', "not a CPU list"),
        ('instances = ["0-3", "3-5"]', "instance 1 names CPUs 3, which another instance has"),
        ('instances = ["0-3"]\nthreads = 4', "other keys"),
        ("instances = [", "is not valid TOML"),
        ("\ud800", "is not valid TOML"),
        ("# " + "x" * 70_000, "larger than 64 KiB"),
        ('instances = ["' + "0-8191," * 9000 + '"]', "not a CPU list"),
    ],
)
def test_a_malformed_file_is_refused_in_plain_words(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ArmbenchError, match=words):
        parse_wish(str(file))


@pytest.mark.parametrize("text", ["[" * 50_000, "[]", '"x"', "{"])
def test_malformed_json_is_refused_too(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(ArmbenchError, match="placement file"):
        parse_wish(str(file))


def test_a_misspelt_strategy_gets_the_nearest_one() -> None:
    with pytest.raises(ArmbenchError, match="no strategy, no CPU list and no file") as caught:
        parse_wish("compct")
    assert "did you mean 'compact'" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["8", "x", "8x", "8x-1", "8x16x2", "123456x1"])
def test_a_shape_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ArmbenchError, match="--plan is"):
        parse_shape(text)


# Any topology


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Random nodes, cache domains and hardware threads; some CPUs may be forbidden."""
    threads = draw(st.sampled_from([1, 1, 2]))
    domain = draw(st.integers(1, 6))
    nodes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))  # domains of each
    cores = sum(nodes) * domain
    far = draw(st.booleans())  # siblings numbered after all cores, or side by side
    siblings = [
        [c + t * cores if far else c * threads + t for t in range(threads)] for c in range(cores)
    ]
    every = range(cores * threads)
    allowed = draw(st.sets(st.sampled_from(every), min_size=1)) | {0}
    if draw(st.booleans()):
        allowed = set(every)
    domains = [siblings[n : n + domain] for n in range(0, cores, domain)]
    flat = [format_cpu_list(c for core in d for c in core) for d in domains]
    starts = [sum(nodes[:n]) for n in range(len(nodes))]
    node_cpus = [
        ",".join(flat[start : start + count]) for start, count in zip(starts, nodes, strict=True)
    ]
    kinds = [Cluster(cpus=node_cpus[0], max_mhz=2000), Cluster(cpus=",".join(node_cpus[1:]))]
    hybrid = len(nodes) > 1 and draw(st.booleans())
    return Machine(
        architecture="aarch64",
        cpu=Cpu(clusters=kinds if hybrid else []),
        topology=Topology(
            cpus=len(every),
            online=format_cpu_list(every),
            physical_cores=cores,
            threads_per_core=threads,
            packages=1,
            numa_nodes=len(nodes),
            cores=siblings,
            llc_domains=flat if draw(st.booleans()) else [],
            nodes=[NumaNode(id=n, cpus=c, memory_bytes=2**30) for n, c in enumerate(node_cpus)],
        ),
        memory=Memory(),
        limits=Limits(
            allowed_cpus=format_cpu_list(allowed),
            cpu_quota=draw(st.sampled_from([None, 0.5, 2.5])),
        ),
        cloud=Cloud(),
    )


def node_sizes(machine: Machine) -> list[int]:
    """Allowed cores of each node."""
    allowed = set(parse_cpu_list(machine.limits.allowed_cpus))
    cores = [core for core in machine.topology.cores if allowed & set(core)]
    nodes = [set(parse_cpu_list(n.cpus)) for n in machine.topology.nodes]
    return [sum(core[0] in node for core in cores) for node in nodes]


@given(machines(), st.integers(1, 12), st.integers(1, 6), st.sampled_from(STRATEGIES))
def test_whatever_is_placed_is_placed_well(
    machine: Machine, threads: int, instances: int, how: str
) -> None:
    allowed = set(parse_cpu_list(machine.limits.allowed_cpus))
    try:
        where = place(machine, threads, Wish(how), instances)
    except ArmbenchError as error:
        assert error.hint
        assert threads * instances > min(1, len(allowed))
        return
    used = [cpu for i in where.instances for cpu in i.cpus]
    assert [len(i.cpus) for i in where.instances] == [threads] * instances
    assert len(set(used)) == len(used), "no CPU twice"
    assert set(used) | set(where.driver) <= allowed
    free = allowed - set(used)
    assert where.shared == (not free)
    assert where.driver
    assert not free or not set(where.driver) & set(used), "the driver has a CPU of its own"
    cores = [set(core) & allowed for core in machine.topology.cores]
    unused = [core for core in cores if core and not core & set(used)]
    assert (
        not unused
        or any(set(where.driver) <= core for core in unused)
        or not ({c for core in cores if core & set(used) for c in core} & set(where.driver))
    )
    nodes = [set(parse_cpu_list(n.cpus)) for n in machine.topology.nodes]
    for instance in where.instances:
        crossed = sum(bool(node & set(instance.cpus)) for node in nodes)
        assert crossed == 1 or threads > max(node_sizes(machine)) or machine.cpu.clusters
        bound = [n for n, node in enumerate(nodes) if node & set(instance.cpus)]
        assert instance.memory_nodes == (bound if len(nodes) > 1 else [])
    for cluster in machine.cpu.clusters:
        inside = set(used) & set(parse_cpu_list(cluster.cpus))
        assert not inside or len(inside) == len(used), "one kind of cores"


@given(machines())
def test_the_default_always_fits_and_shares_no_core(machine: Machine) -> None:
    for how in STRATEGIES:
        wish = Wish(how)
        threads = default_threads(machine, wish)
        where = place(machine, threads, wish)
        cores = [set(core) for core in machine.topology.cores]
        assert max(len(core & set(where.cpus)) for core in cores) == 1
        assert machine.limits.cpu_quota is None or threads <= max(1, machine.limits.cpu_quota)


@given(machines(), st.integers(1, 12), st.sampled_from(STRATEGIES), st.integers(1, 40))
def test_every_placement_can_be_drawn(
    machine: Machine, threads: int, how: str, instances: int
) -> None:
    try:
        where = place(machine, threads, Wish(how), instances)
    except ArmbenchError:
        return
    lines = placement_lines(machine, where)
    assert placement_text(machine, where).plain.split("\n")[1] == lines[1]
    assert sum(len(line) for line in lines if line.startswith("  ")) > 0


# The map


def test_the_map_shows_every_core_once_in_its_socket_node_and_domain(graviton4: Machine) -> None:
    lines = placement_lines(graviton4, place(graviton4, 16, Wish("compact"), 8))
    rows = [line[13:].split() for line in lines if line.startswith("  ")]
    marks = [mark for row in rows for mark in row]
    assert "".join(marks) == "".join(f"{n}" * 16 for n in range(8)) + "d" * 64
    assert "socket 0, node 0: 96 cores" in lines
    assert "socket 1, node 1: 96 cores" in lines
    assert "6 CPUs 96-111, node 1, cache domain 1, memory on 1" in lines
    assert max(map(len, lines)) <= 80


def test_the_map_shows_both_hardware_threads_of_a_core(milan: Machine) -> None:
    lines = placement_lines(milan, place(milan, 8, Wish("spread")))
    assert "  L0      0  0. 0. 0. 0. .. .. .. .." in lines
    assert "  L2     16  dd dd dd dd dd dd dd dd" in lines


def test_more_instances_than_letters_get_numbers(graviton4: Machine) -> None:
    lines = placement_lines(graviton4, place(graviton4, 1, Wish("compact"), 100))
    assert any(line.endswith(" 94 95") for line in lines)
    assert "… and 84 more in --json" in lines


def test_colour_is_for_terminals(milan: Machine) -> None:
    where = place(milan, 8)
    assert placement_text(milan, where).spans
    assert not any("\x1b" in line for line in placement_lines(milan, where))


def test_the_command_draws_without_running_and_prints_json(tmp_path: Path) -> None:
    root = trees.write_tree(tmp_path / "tree", trees.load("milan-64cpu-2node"))
    base = ("machine", "--root", str(root))
    drawn = armbench(*base, "--plan", "4x8", "--placement", "spread")
    assert drawn.returncode == 0, drawn.stderr
    assert "4 instances of 8 threads, placement spread" in drawn.stdout
    assert "memory on 1" in drawn.stdout
    found = json.loads(armbench(*base, "--placement", "numa", "--json").stdout)
    assert [len(i["cpus"]) for i in found["instances"]] == [16, 16]
    wrong = armbench(*base, "--plan", "9x16")
    assert wrong.returncode == 2
    assert "9 × 16 threads" in wrong.stderr
    assert wrong.stdout == ""
