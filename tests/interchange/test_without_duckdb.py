"""Without duckdb the other formats work, and SQL says what to install."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from harness.errors import ArmbenchError
from harness.interchange import database

from . import made


def test_a_missing_package_is_named_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    for ask in (
        lambda: database.sql("SELECT 1", tmp_path),
        lambda: database.parquet([("a", made.batched())], tmp_path / "t.parquet"),
    ):
        with pytest.raises(ArmbenchError, match="duckdb") as caught:
            ask()
        assert "armbench[sql]" in str(caught.value.hint)
