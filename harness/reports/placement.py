"""The map of a placement: every core in its socket, node and cache domain, marked by instance."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator

from rich.text import Text

from harness.machine.placement import Placement
from harness.records.machine import Machine
from harness.reports.machine import title
from harness.units import format_cpu_list, parse_cpu_list

DRIVER, FREE, FORBIDDEN = "d", ".", "x"
_LETTERS = string.digits + string.ascii_uppercase
_CELLS_WIDTH = 66  # the map of a large server still fits into 80 columns
_MOST_LISTED = 16
_COLOURS = (
    *("black on cyan", "black on yellow", "white on blue", "black on green", "white on magenta"),
    *("black on white", "white on red", "black on bright_cyan", "black on bright_yellow"),
)
_OTHER_STYLES = {DRIVER: "bold", FREE: "dim", FORBIDDEN: "dim red"}

_Piece = tuple[str, str]  # text, style
_Line = list[_Piece]


def placement_lines(machine: Machine, placement: Placement) -> list[str]:
    """The map as plain lines: a digit or letter for each instance."""
    drawn = ("".join(text for text, _ in line) for line in _lines(machine, placement))
    return [line.rstrip() for line in drawn]


def placement_text(machine: Machine, placement: Placement) -> Text:
    """The same in colour, for a terminal."""
    return Text("\n").join(Text.assemble(*line) for line in _lines(machine, placement))


def _lines(machine: Machine, placement: Placement) -> Iterator[_Line]:
    yield [(title(machine), "bold")]
    yield [(_summary(placement), "")]
    marks = _Marks(machine, placement)
    domains = [d for d in map(parse_cpu_list, machine.topology.llc_domains) if d]
    for head, cores in _groups(machine):
        yield [("", "")]
        yield [(head, "bold")]
        yield from _grid(cores, domains, marks)
    yield [("", "")]
    yield [(marks.legend(), "dim")]
    yield from _instances(machine, placement, marks)
    yield from ([(f"note: {note}", "yellow")] for note in placement.notes)


def _summary(placement: Placement) -> str:
    instances = placement.instances
    sizes = sorted({len(i.cpus) for i in instances})
    threads = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    shares = " (shared)" if placement.shared else ""
    return (
        f"{_many(len(instances), 'instance')} of {threads} thread{'' if sizes == [1] else 's'}, "
        f"placement {placement.wish}; driver on CPUs {format_cpu_list(placement.driver)}{shares}"
    )


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


class _Marks:
    """The mark of each CPU, all of one width, and its colour."""

    def __init__(self, machine: Machine, placement: Placement) -> None:
        count = len(placement.instances)
        self.short = count <= len(_LETTERS)
        self.width = 1 if self.short else len(str(count - 1))
        self.allowed = set(parse_cpu_list(machine.limits.allowed_cpus))
        self.driver = set(placement.driver)
        self.owner = {c: n for n, i in enumerate(placement.instances) for c in i.cpus}

    def instance(self, number: int) -> str:
        return _LETTERS[number] if self.short else f"{number:0{self.width}d}"

    def mark(self, cpu: int) -> _Piece:
        """Text and style of one CPU."""
        if cpu in self.owner:
            number = self.owner[cpu]
            return self.instance(number), _COLOURS[number % len(_COLOURS)]
        kind = FREE if cpu in self.allowed else FORBIDDEN
        kind = DRIVER if cpu in self.driver else kind
        return kind.rjust(self.width), _OTHER_STYLES[kind]

    def legend(self) -> str:
        """What the marks mean."""
        last = self.instance(max(self.owner.values(), default=0))
        first = self.instance(0)
        parts = [f"{first} to {last}: instances" if last != first else f"{first}: the instance"]
        parts += [f"{DRIVER}: driver", f"{FREE}: free"]
        return "; ".join([*parts, f"{FORBIDDEN}: not allowed here"])


def _groups(machine: Machine) -> Iterator[tuple[str, list[list[int]]]]:
    """Heading and physical cores of each node in each socket, in the kernel's order."""
    shape = machine.topology
    sockets = [set(parse_cpu_list(p)) for p in shape.package_cpus] or [set()]
    nodes = {n.id: set(parse_cpu_list(n.cpus)) for n in shape.nodes if n.cpus}
    found: dict[tuple[int, int | None], list[list[int]]] = {}
    for core in shape.cores:
        socket = next((n for n, cpus in enumerate(sockets) if core[0] in cpus), 0)
        node = next((n for n, cpus in nodes.items() if core[0] in cpus), None)
        found.setdefault((socket, node), []).append(core)
    for (socket, node), cores in sorted(found.items(), key=lambda item: item[1][0]):
        where = f"socket {socket}, " + ("no node" if node is None else f"node {node}")
        smt = sum(map(len, cores))
        threads = f", {smt} hardware threads" if smt > len(cores) else ""
        yield f"{where}: {_many(len(cores), 'core')}{threads}", cores


def _grid(cores: list[list[int]], domains: list[list[int]], marks: _Marks) -> Iterator[_Line]:
    """Rows of cores, a new row for each cache domain."""
    number = {cpu: n for n, cpus in enumerate(domains) for cpu in cpus}
    parts: dict[int | None, list[list[int]]] = {}
    for core in cores:
        parts.setdefault(number.get(core[0]), []).append(core)
    cell = max(len(core) for core in cores) * marks.width + 1
    across = next((n for n in (32, 16, 8, 4, 2) if n * cell <= _CELLS_WIDTH), 1)
    for domain, members in parts.items():
        for start in range(0, len(members), across):
            row = members[start : start + across]
            name = f"L{domain}" if start == 0 and domain is not None else ""
            head = f"  {name:<4}{row[0][0]:>5}  "
            yield [(head, "dim"), *_cells(row, cell, marks)]


def _cells(row: list[list[int]], width: int, marks: _Marks) -> Iterator[_Piece]:
    for core in row:
        pieces = [marks.mark(cpu) for cpu in core]
        yield from pieces
        yield " " * (width - sum(len(text) for text, _ in pieces)), ""


def _instances(machine: Machine, placement: Placement, marks: _Marks) -> Iterator[_Line]:
    nodes = {n.id: parse_cpu_list(n.cpus) for n in machine.topology.nodes}
    domains = dict(enumerate(map(parse_cpu_list, machine.topology.llc_domains)))
    for number, instance in enumerate(placement.instances[:_MOST_LISTED]):
        bound = instance.memory_nodes
        parts = [
            f"CPUs {format_cpu_list(instance.cpus)}",
            _inside("node", nodes.items(), instance.cpus),
            _inside("cache domain", domains.items(), instance.cpus),
            f"memory on {format_cpu_list(bound)}" if bound else "",
        ]
        text = f" {', '.join(part for part in parts if part)}"
        yield [(marks.instance(number), _COLOURS[number % len(_COLOURS)]), (text, "")]
    if (rest := len(placement.instances) - _MOST_LISTED) > 0:
        yield [(f"… and {rest} more in --json", "dim")]


def _inside(what: str, groups: Iterable[tuple[int, list[int]]], cpus: list[int]) -> str:
    """Which of the groups `cpus` lie in: `nodes 0-1`."""
    place = set(cpus)
    found = [number for number, members in groups if place & set(members)]
    return f"{what}{'s' if len(found) > 1 else ''} {format_cpu_list(found)}" if found else ""
