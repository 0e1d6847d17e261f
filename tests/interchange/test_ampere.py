"""Ampere's CSV: rates that were added are marked, and a column changed its meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import interchange
from harness.errors import ArmbenchError

from . import made


def test_rates_are_by_definition_and_added_ones_marked(tmp_path: Path) -> None:
    (found,) = interchange.read([made.put(tmp_path, made.AMPERE_NAME, made.AMPERE)])
    one, eight = found.plan.cases
    assert found.model.name == "Qwen2.5-7B-Instruct-Q8R16"
    assert one.variant.dtype == "q8r16"
    assert (one.variant.threads, one.load.batch, eight.load.batch) == (80, 4, 8)
    assert one.variant.options == {"processes": 1, "fa": "True", "ctx": "65536"}
    figures = {name: f.value for name, f in found.summary["0"].items()}
    assert figures["prefill_tok_per_s"] == 400
    assert figures["decode_tok_per_s"] == 40
    assert figures["output_tok_per_s"] == pytest.approx(100 / 3)
    assert found.trials[0].findings == []
    assert "8 processes" in found.trials[1].findings[0].message
    assert found.trials[1].extra["tg_avg_latency_sec"] == "0.050"
    assert found.created.startswith("2026-09-")


def test_without_a_start_the_date_is_the_imports_and_that_is_said(tmp_path: Path) -> None:
    text = "\n".join(line.rsplit(",", 2)[0] for line in made.AMPERE.splitlines())
    (found,) = interchange.read([made.put(tmp_path, made.AMPERE_NAME, text)])
    assert any("dated by the import" in note for note in found.plan.notes)


@pytest.mark.parametrize("change", [("1,80,4", "0,80,4"), ("400.000", "-1"), ("512", "much")])
def test_a_line_that_can_not_be_is_refused(tmp_path: Path, change: tuple[str, str]) -> None:
    path = made.put(tmp_path, made.AMPERE_NAME, made.AMPERE.replace(*change, 1))
    with pytest.raises(ArmbenchError, match="line 2"):
        interchange.read([path])
