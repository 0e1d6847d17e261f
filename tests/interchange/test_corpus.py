"""Thirty published guests import, show, price, compare, and read back; none of it is copied."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from harness import binding, cost, interchange, store
from harness.comparing import question, values
from harness.interchange import Told
from harness.records.run import Result
from harness.reports.terminal import show_result
from tests.machine import corpus
from tests.machine.test_corpus import PRODUCTS, family_of

SOURCE = "https://github.com/SpareCores/sc-inspector-data"
MODELS = {"SmolLM-135M", "qwen1_5-0_5b-chat", "gemma-2b", "llama-7b", "phi-4", "Llama-3.3-70B"}
UNPRICED = {"aws-c6a.16xlarge", "hcloud-cax41"}  # no row in configs/prices

pytestmark = pytest.mark.skipif(
    not corpus.guests(), reason=f"no corpus at {corpus.FOLDER}; set ARMBENCH_CORPUS"
)


@pytest.fixture(params=corpus.guests() or ["none"])
def guest(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@cache
def imported(name: str) -> list[Result]:
    folder = corpus.FOLDER / name
    beside = ("lscpu.json", "dmi.json", "membench.csv", "meta.json")
    return interchange.read(
        [folder / "llama-bench.jsonl"],
        beside_paths=[p for n in beside if (p := folder / n).is_file()],
        told=Told(published=SOURCE),
    )


def rows(name: str) -> list[dict]:
    lines = (corpus.FOLDER / name / "llama-bench.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_every_row_of_a_guest_is_a_trial_with_its_rate(guest: str) -> None:
    found, told = imported(guest), rows(guest)
    assert sum(len(r.trials) for r in found) == len(told)
    for row in told:
        (result,) = (r for r in found if Path(row["model_filename"]).stem == r.model.name)
        at = row["test_time"].replace("Z", "+00:00")
        name = "prefill_tok_per_s" if row["n_prompt"] else "decode_tok_per_s"
        trials = {
            (t.started_at, *_load(result, t.case)): t for t in result.trials if name in t.figures
        }
        trial = trials[at, row["n_prompt"], row["n_gen"]]
        tokens = row["n_prompt"] + row["n_gen"]
        assert trial.figures[name] == pytest.approx(tokens * 5e9 / sum(row["samples_ns"]))
        assert trial.samples[name] == pytest.approx(row["samples_ts"], rel=1e-4)


def _load(result: Result, case: int) -> tuple[int, int]:
    load = result.plan.cases[case].load
    return load.input_tokens, load.output_tokens


def test_a_guest_is_named_sized_and_dated(guest: str) -> None:
    for result in imported(guest):
        assert any(result.model.name.startswith(name) for name in MODELS)
        assert (result.machine.cpu.product, result.machine.cpu.core) == PRODUCTS[family_of(guest)]
        assert result.machine.topology.cpus == int(corpus.fields(guest)["CPU(s)"])
        assert result.machine.cloud.instance == guest.partition("-")[2]
        assert result.plan.cases[0].variant.threads == result.machine.topology.physical_cores
        assert result.created[:4] in ("2025", "2026")
        assert (result.basis, result.tool) == ("published", "llama-bench 4753 (51f311e0)")
        assert any(SOURCE in text for text in result.warnings)


def test_a_guest_costs_its_instance(guest: str) -> None:
    for result in imported(guest):
        if guest in UNPRICED:
            assert result.price is None
            assert result.price_reason
            continue
        assert result.price is not None
        costs = [cost.case_costs(result, case.id) for case in result.plan.cases]
        assert all(into or out for into, out in costs)


def test_a_guest_survives_writing_reading_and_showing(guest: str, tmp_path: Path) -> None:
    for result in imported(guest):
        store.save(result, tmp_path / "r.json")
        again = store.load(tmp_path / "r.json")
        binding.derive(again)
        assert again == result
        out = io.StringIO()
        show_result(again, Console(file=out, width=200))
        assert "published, measured by llama-bench 4753" in " ".join(out.getvalue().split())


def test_every_guest_is_compared_with_another_on_the_same_questions(guest: str) -> None:
    base = {r.model.name: r for r in imported("aws-c7g.4xlarge")}
    for result in imported(guest):
        other = base.get(result.model.name)
        if other is None:
            continue
        a, b = (values.of_result(r, "file") for r in (other, result))
        assert all(case.values and case.valid for case in b.cases)
        left = {question.key(c.question, ("threads",)) for c in a.cases}
        right = {question.key(c.question, ("threads",)) for c in b.cases}
        assert left & right


def test_every_guest_is_written_in_every_format_and_llama_bench_reads_back(
    guest: str, tmp_path: Path
) -> None:
    for result in imported(guest)[:2]:
        for form in interchange.WRITABLE:
            text = interchange.write(result, form).text
            if form.startswith("llama-bench"):
                path = tmp_path / f"{form}.txt"
                path.write_text(text)
                (again,) = interchange.read([path])
                assert again.plan.cases == result.plan.cases
                assert [t.started_at for t in again.trials] == [t.started_at for t in result.trials]
