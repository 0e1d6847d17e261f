"""What the guard lets an engine read: shipped text in the checkpoint's own tokens.

Two passes, so that a kernel for many rows and one for a single row are both seen, as well as a
short and a longer context: every text at once in a batch, then two texts in a row alone. Of each
sequence the first tokens are prefilled together, the others decoded one by one, forced to the text.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from harness import places
from harness.errors import ArmbenchError

BATCH_PREFIX, BATCH_POSITIONS = 32, 32
ALONE_PREFIX, ALONE_POSITIONS = 160, 16
_ALONE = ("english", "python")


class Pass(Struct, frozen=True):
    """Sequences of equal length that go through the engine together.

    Each row's tokens up to `prefix` are prefilled; each later one is first predicted, then forced.
    """

    names: list[str]
    rows: list[list[int]]
    prefix: int

    @property
    def positions(self) -> int:
        """Predicted tokens of one row."""
        return len(self.rows[0]) - self.prefix


class Samples(Struct, frozen=True):
    """The passes; `meaningless` says why the tokens' probability means nothing, if it does not."""

    passes: list[Pass]
    meaningless: str | None = None


def shipped_texts() -> dict[str, str]:
    """The shipped texts by name: languages and code that no tokenizer here was trained on."""
    folder = places.config_dir() / "text" / "quality"
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.txt"))}


def samples(folder: Path, vocabulary: int, *, synthetic: bool) -> Samples:
    """The guard's tokens for the checkpoint in `folder`.

    Raises ArmbenchError for a tokenizer that cannot be read.
    """
    found = _encoded(folder, vocabulary)
    if found is None:
        return Samples(
            _numbered(vocabulary), "the checkpoint has no tokenizer for the shipped text"
        )
    if synthetic:
        return Samples(found, "with synthetic weights only the arithmetic can be checked")
    return Samples(found)


def _encoded(folder: Path, vocabulary: int) -> list[Pass] | None:
    """The texts in the tokens of `folder`; None without a tokenizer, or with a foreign one."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    shipped = shipped_texts()
    alone = "\n".join(shipped[name] for name in _ALONE)
    try:
        encode = Tokenizer.from_file(str(file)).encode
        rows = [encode(text, add_special_tokens=False).ids for text in (*shipped.values(), alone)]
    except Exception as error:  # the tokenizer library raises bare Exception
        raise ArmbenchError(f"{file} cannot be read: {error}") from error
    length, long = BATCH_PREFIX + BATCH_POSITIONS, ALONE_PREFIX + ALONE_POSITIONS
    *batch, last = rows
    if min(map(len, batch)) < length or len(last) < long or max(map(max, rows)) >= vocabulary:
        return None
    return [
        Pass(list(shipped), [row[:length] for row in batch], BATCH_PREFIX),
        Pass(["+".join(_ALONE)], [last[:long]], ALONE_PREFIX),
    ]


def _numbered(vocabulary: int) -> list[Pass]:
    """Passes of the same shape with tokens spread over the vocabulary."""
    names, found = list(shipped_texts()), []
    for labels, prefix, positions in (
        (names, BATCH_PREFIX, BATCH_POSITIONS),
        (["+".join(_ALONE)], ALONE_PREFIX, ALONE_POSITIONS),
    ):
        length = prefix + positions
        step = max(1, vocabulary // (length + 1))
        rows = [[(i + 1) * step + r for i in range(length)] for r in range(len(labels))]
        found.append(Pass(labels, [[t % vocabulary for t in row] for row in rows], prefix))
    return found
