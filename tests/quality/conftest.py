"""The small trained Qwen3, and what transformers float32 says on its weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import agreement
from harness.model.checkpoint import open_folder

SMALL = Path(__file__).parents[1] / "models" / "small-qwen3"


@pytest.fixture(scope="session")
def small_reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("reference") / "small.npz"
    vocabulary = open_folder(SMALL).dimensions.vocabulary
    agreement.make_reference(SMALL, agreement.samples(SMALL, vocabulary, synthetic=False), file)
    return file
