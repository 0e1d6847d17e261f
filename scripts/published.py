"""Figures that others published, as results: from `results/published/figures.toml`.

They are mapped by the definitions of the llama-bench reader and priced by our own lists.
"""

from __future__ import annotations

import datetime
import hashlib
import tomllib
from pathlib import Path

from msgspec import Struct, convert, structs

from harness import store
from harness.interchange import assemble, llama_bench
from harness.interchange.assemble import Row, Source, Told, blank_trial
from harness.interchange.foreign import ForeignFile
from harness.records.machine import Cpu, Machine, Topology
from harness.records.run import LoadPoint, Result, Variant


class Model(Struct, forbid_unknown_fields=True):
    name: str
    family: str
    dtype: str
    prompt: int
    output: int


class Guest(Struct, forbid_unknown_fields=True):
    """One rented machine: tokens per second of prompt (`pp`) and output (`tg`)."""

    instance: str
    cpu: str
    core: str
    architecture: str
    vcpus: int
    threads: int
    pp: float
    tg: float
    measured: datetime.date


class Figures(Struct, forbid_unknown_fields=True):
    """The file. `threads` of a guest are its physical cores."""

    source: str
    at_commit: str
    published: datetime.date
    tool: str
    version: str
    by: str
    licence: str
    repetitions: int
    model: Model
    guests: list[Guest]


def read(path: Path) -> Figures:
    return convert(tomllib.loads(path.read_text()), Figures)


def results(path: Path) -> dict[str, Result]:
    """A result for each guest, by its path from the results folder: the same on every day."""
    told = read(path)
    file = ForeignFile(path.name, path.read_bytes())
    return {
        f"{store.PUBLISHED}/{told.tool}-{told.model.name}/{store.safe_name(guest.instance)}.json": (
            _result(told, guest, file)
        )
        for guest in told.guests
    }


def _result(told: Figures, guest: Guest, file: ForeignFile) -> Result:
    rows = [
        _row(told, guest, prompt=told.model.prompt, output=0, rate=guest.pp),
        _row(told, guest, prompt=0, output=told.model.output, rate=guest.tg),
    ]
    source = Source(
        tool=told.tool,
        format="figures.toml",
        version=told.version,
        rows=rows,
        software={llama_bench.ENGINE: told.version},
        notes=[llama_bench.NOTE],
        extra={"measured by": told.by, "licence": told.licence},
    )
    where = f"{told.source} @{told.at_commit}, {told.published}"
    (found,) = assemble.results(
        source, [file], _machine(guest), Told(instance=guest.instance, published=where)
    )
    # Dated by its source instead of by this run, so that the file is the same on every day.
    assert found.origin is not None
    found.origin = structs.replace(
        found.origin,
        imported_at=told.published.isoformat(),
        files={file.name: hashlib.sha256(file.data).hexdigest()},
    )
    return found


def _row(told: Figures, guest: Guest, *, prompt: int, output: int, rate: float) -> Row:
    trial = blank_trial()
    trial.figures = dict.fromkeys(llama_bench.metrics_of(prompt, output, 0), rate)
    trial.extra = {"repetitions in one process": told.repetitions}
    return Row(
        model=structs.replace(
            assemble.model_named(told.model.name, Told()), family=told.model.family
        ),
        variant=Variant(engine=llama_bench.ENGINE, dtype=told.model.dtype, threads=guest.threads),
        load=LoadPoint(
            kind="single_stream", batch=1, input_tokens=prompt, output_tokens=output, requests=1
        ),
        trial=trial,
        at=datetime.datetime.combine(guest.measured, datetime.time(), datetime.UTC),
    )


def _machine(guest: Guest) -> Machine:
    """What is told of the guest; the rest stays unknown."""
    blank = assemble.nothing_known()
    told = ("architecture", "cpu.product", "topology.cpus", "topology.vcpu")
    known = (*told, "topology.physical_cores")
    why = "not among the published figures"
    return structs.replace(
        blank,
        architecture=guest.architecture,
        cpu=Cpu(product=guest.cpu, core=guest.core),
        topology=Topology(
            cpus=guest.vcpus,
            online=f"0-{guest.vcpus - 1}",
            physical_cores=guest.threads,
            threads_per_core=guest.vcpus // guest.threads,
            packages=1,
            numa_nodes=1,
            vcpu="core" if guest.vcpus == guest.threads else "hardware thread",
        ),
        unknown={
            **{name: why for name in blank.unknown if name not in known},
            "topology.packages": f"{why}: one is assumed",
            "topology.numa_nodes": f"{why}: one is assumed",
        },
    )
