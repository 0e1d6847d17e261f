"""What computes something else than the model is no result, however fast: run, file and gate."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from harness import store
from harness.errors import Exit
from harness.records.run import Result
from tests.quality.conftest import SMALL
from tests.test_run import armbench

OUTSIDE = "outside the quality bounds"


HIDE = (
    "import importlib.util as u\nreal = u.find_spec\n"
    "u.find_spec = lambda name, *more: None if name == 'transformers' else real(name, *more)"
)
UNCHECKED = "its quality could not be checked"


def measured(results: Path, *more: str) -> tuple[int, Result, Path]:
    """(exit code, result, its file) of a short run of the small model."""
    done = armbench(
        *("run", "--model", str(SMALL), "--engine", "torch", "--dtype", "float32"),
        *("--threads", "1", "--input-tokens", "16", "--output-tokens", "8", "--requests", "2"),
        *("--repeats", "1", "--ceilings", "false", "--results", str(results), *more),
    )
    file = store.find("latest", results)
    return done.returncode, store.load(file), file


@pytest.mark.engine
def test_a_run_outside_the_quality_bounds_is_invalid_and_passes_no_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARMBENCH_CACHE", str(tmp_path))
    _, right, baseline = measured(tmp_path / "right")
    (check,) = right.checks
    assert check.ok
    assert check.agreement is not None
    assert check.agreement.perplexity is not None
    assert not any(OUTSIDE in text for trial in right.trials for text in trial.invalid)

    # To the guard, an engine that is wrong and a reference of other weights are the same.
    (file,) = (tmp_path / "references").glob("*.npz")
    with np.load(file) as stored:
        arrays = dict(stored)
    np.savez(file, **arrays | {name: 1.5 * arrays[name] for name in ("0", "1")})
    code, wrong, new = measured(tmp_path / "wrong")
    assert code == Exit.INVALID
    assert [check.ok for check in wrong.checks] == [False]
    assert wrong.trials
    assert all(any(OUTSIDE in text for text in trial.invalid) for trial in wrong.trials)
    gated = armbench("gate", str(new), "--baseline", str(baseline), "--json")
    assert gated.returncode == Exit.INVALID
    assert OUTSIDE in gated.stdout


@pytest.mark.engine
@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("sitecustomize.py", HIDE, "transformers not installed: pip install"),
        ("transformers/__init__.py", "raise ImportError('broken')", "ImportError: broken"),
    ],
)
def test_a_run_that_could_not_be_checked_is_invalid_unless_that_is_wished(
    file: str, text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARMBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"))
    _, lax, baseline = measured(tmp_path / "lax", "--unchecked", "true")
    assert lax.trials
    assert not any(UNCHECKED in text for trial in lax.trials for text in trial.invalid)
    code, strict, new = measured(tmp_path / "strict")
    assert code == Exit.INVALID
    assert [check.ok for check in strict.checks] == [None]
    for trial in strict.trials:
        (said,) = [text for text in trial.invalid if UNCHECKED in text]
        assert reason in said
        assert "--unchecked" in said
    gated = armbench("gate", str(new), "--baseline", str(baseline), "--json")
    assert gated.returncode == Exit.INVALID
    assert UNCHECKED in gated.stdout
