"""A checkpoint as transformers 4 reads it rightly, and with it the exporters."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.model.architecture import dimensions
from harness.model.checkpoint import read_json


@contextmanager
def folder_for_transformers(folder: Path) -> Iterator[Path]:
    """`folder`, or one beside it whose config.json has `rope_theta` at its top level.

    transformers 5 writes it into `rope_parameters`, which transformers 4 passes over: without a
    word it computes with 10000. The files are links, and gone when the block ends.
    """
    config = read_json(folder / "config.json")
    if "rope_parameters" not in config:
        yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        links = Path(name)
        for file in folder.iterdir():
            (links / file.name).symlink_to(file.resolve())
        (links / "config.json").unlink()
        told = config | {"rope_theta": dimensions(config).rope_theta}
        (links / "config.json").write_text(json.dumps(told))
        yield links
