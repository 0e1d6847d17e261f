"""A conversation as the text that a checkpoint was trained on: its chat template, in a sandbox.

A checkpoint is untrusted, and so is its template: it runs in Jinja's immutable sandbox, which gives
it no attribute that leads out and no way to change what it is given, and its output is bounded. A
template that loops for long still holds up the server that was started with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import ArmbenchError
from harness.model import chatml
from harness.serving.tokens import settings_of, token_text

_MAX_TEMPLATE = 2**20
_MAX_OUTPUT = 2**24  # characters
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


class Refused(Exception):
    """The template refused a conversation; the message is the template's own."""


class ChatTemplate:
    """The template of the checkpoint in `folder`; ChatML where it has none.

    Raises ArmbenchError for one that can't be parsed.
    """

    def __init__(self, folder: Path) -> None:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        settings = settings_of(folder)
        self._variables = {name: token_text(settings, name) or "" for name in _TOKENS}
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        try:
            self._template = environment.from_string(_source(folder, settings))
        except (jinja2.TemplateError, RecursionError) as error:
            raise ArmbenchError(
                f"the chat template of {folder} cannot be parsed: {error}",
                hint="mend chat_template in tokenizer_config.json, or remove it for ChatML",
            ) from error

    def render(self, messages: Sequence[Mapping[str, str]], more: Mapping[str, Any]) -> str:
        """The text of `messages` up to where the assistant goes on; `more` are its own variables.

        Raises Refused where the template does not take them.
        """
        variables = {"tools": None, "documents": None, **self._variables, **more}
        parts, length = [], 0
        try:
            for part in self._template.generate(
                **{**variables, "messages": messages, "add_generation_prompt": True}
            ):
                length += len(part)
                if length > _MAX_OUTPUT:
                    raise Refused(f"the chat template writes more than {_MAX_OUTPUT} characters")
                parts.append(part)
        except Refused:
            raise
        except Exception as error:  # a template may raise whatever its expressions do
            raise Refused(f"the chat template failed: {error}") from error
        return "".join(parts)


def _source(folder: Path, settings: Mapping[str, Any]) -> str:
    """The template's text: a file of its own, or in tokenizer_config.json, or ChatML."""
    file = folder / "chat_template.jinja"
    if file.is_file() and file.stat().st_size <= _MAX_TEMPLATE:
        return file.read_text()
    found = settings.get("chat_template")
    if isinstance(found, list):  # several with names
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    if isinstance(found, str) and len(found) <= _MAX_TEMPLATE:
        return found
    return chatml.TEMPLATE


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> str:
    raise Refused(message)


def _now(form: str) -> str:
    import datetime

    return datetime.datetime.now().astimezone().strftime(form)
