"""Later turns of a conversation: bodies made before the window, with places for real answers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from harness.records.load import Endpoint

# Below any token id, and nothing else that a body says.
_FIRST_ID = -(10**15)
_IDS = re.compile(rb"-1\d{15}")


class NoAnswer(Exception):
    """A turn can't be made, because what it needs of an earlier answer is not known."""


def text_place(salt: str, turn: int) -> str:
    """What stands for the text that answered `turn`; `salt` makes it unlike any prompt."""
    return f" {salt}.{turn}."


def ids_place(turn: int) -> list[int]:
    """What stands for the token ids that answered `turn`."""
    return [_FIRST_ID - turn]


def filled(
    template: bytes, salt: str, answers: Sequence[tuple[str, Sequence[int]]], endpoint: Endpoint
) -> bytes:
    """`template` with the (text, ids) of earlier turns in their places.

    A prompt of one text keeps a space before an answer that begins with none. Raises NoAnswer
    where ids are needed and the server told none.
    """

    def ids(match: re.Match[bytes]) -> bytes:
        known = answers[_FIRST_ID - int(match[0])][1]
        if not known:
            raise NoAnswer(
                "the server tells no token ids, and this conversation is one of ids: use text"
            )
        return b",".join(b"%d" % one for one in known)

    for turn, (text, _) in enumerate(answers):
        spaced = f" {text}" if endpoint == "completions" and not text[:1].isspace() else text
        encoded = msgspec.json.encode(spaced.encode(errors="replace").decode())[1:-1]
        template = template.replace(text_place(salt, turn).encode(), encoded)
    return _IDS.sub(ids, template)
