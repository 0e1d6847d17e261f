"""What requests are held against: the model's name, tokenizer and context, and the link to it."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from pathlib import Path

from harness.errors import ArmbenchError
from harness.model.checkpoint import read_json
from harness.serving import bodies
from harness.serving.bodies import Body, ChatBody, CompletionBody
from harness.serving.chat import ChatTemplate, Refused
from harness.serving.dispatch import Dispatcher
from harness.serving.options import Ready, Service
from harness.serving.refusal import ApiError
from harness.serving.tokens import Decoded, Numbers, TextStream, Tokenizer, eos_tokens

_SHORT_TEXT = 4096  # characters that are tokenised within a millisecond or two
_BODY_BASE = 2**20
_BODY_PER_TOKEN = 32  # bytes of JSON that one token of a prompt may take


class Words:
    """Text and tokens of one checkpoint. Without a tokenizer `reason` says why.

    Raises ArmbenchError for a damaged checkpoint or template.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Tokenizer | None = None
        self.reason: str | None = None
        try:
            self.tokenizer = Tokenizer(folder)
        except ArmbenchError as error:
            self.reason = error.message
        self.template = None if self.tokenizer is None else ChatTemplate(folder)
        self.eos = eos_tokens(folder, read_json(folder / "config.json"), self.tokenizer)


class Face:
    """What every endpoint asks: may this run, as which tokens, for how long."""

    def __init__(self, service: Service, words: Words, link: Dispatcher, ready: Ready) -> None:
        self.service, self.words, self.link, self.ready = service, words, link, ready
        self.max_body = _BODY_BASE + _BODY_PER_TOKEN * service.setting.context
        self._answers = itertools.count(1)
        self._server = secrets.token_hex(4)

    def number(self) -> str:
        """A number for an answer that no other has."""
        return f"{self._server}{next(self._answers):08x}"

    def check_model(self, name: str | None) -> None:
        """Raise ApiError where `name` is not what is served."""
        if name not in (None, "", self.service.name):
            raise ApiError(
                404,
                f"the model {name!r:.200} does not exist here: this server has "
                f"{self.service.name!r}",
                code="model_not_found",
                param="model",
            )

    async def tokens(self, body: CompletionBody | ChatBody) -> list[int]:
        """Token ids of the prompt. Raises ApiError for ids that the model does not have."""
        if isinstance(body, ChatBody):
            tokens = await self._encode(self._conversation(body), special=False)
        else:
            prompt = bodies.prompt(body)
            if isinstance(prompt, str):
                tokens = await self._encode(prompt, special=body.add_special_tokens is not False)
            else:
                tokens = prompt
        param = "messages" if isinstance(body, ChatBody) else "prompt"
        if not tokens:
            raise ApiError(400, f"{param} holds no token", param=param)
        if max(tokens) >= self.service.vocabulary:
            raise ApiError(
                400,
                f"{param} has token {max(tokens)}, but the vocabulary ends at "
                f"{self.service.vocabulary - 1}",
                param=param,
            )
        return tokens

    def _conversation(self, body: ChatBody) -> str:
        messages = bodies.messages(body)
        if self.words.template is None:
            raise self._no_text("messages")
        try:
            return self.words.template.render(messages, body.chat_template_kwargs or {})
        except Refused as error:
            raise ApiError(400, str(error), param="messages") from error

    async def _encode(self, text: str, *, special: bool) -> list[int]:
        tokenizer = self.words.tokenizer
        if tokenizer is None:
            raise self._no_text("prompt")
        if len(text) <= _SHORT_TEXT:
            return tokenizer.encode(text, special=special)
        return await asyncio.to_thread(tokenizer.encode, text, special=special)

    def _no_text(self, param: str) -> ApiError:
        return ApiError(
            400,
            f"{param} cannot be text here: {self.words.reason}; give prompt as a list of token ids "
            "to /v1/completions",
            param=param,
            code="no_tokenizer",
        )

    def max_tokens(self, body: CompletionBody | ChatBody, inputs: int) -> int:
        """Output tokens at most: as asked, else OpenAI's 16, in a chat the rest of the context.

        Raises ApiError where they do not fit into the context behind `inputs` tokens.
        """
        asked = body.max_tokens
        rest = self.link.longest - inputs
        if isinstance(body, ChatBody):
            if body.max_completion_tokens is not None:
                asked = body.max_completion_tokens
            most = max(1, rest) if asked is None else asked
        else:
            most = 16 if asked is None else asked
        if most == 0:
            raise ApiError(400, "0 output tokens: ask for one or more", param="max_tokens")
        if most > rest:
            raise ApiError(
                400,
                f"{inputs} input and {most} output tokens exceed the context of "
                f"{self.link.longest} tokens that this server runs with",
                code="context_length_exceeded",
                param="max_tokens" if rest > 0 else "prompt",
            )
        return most

    def text(self, body: Body) -> TextStream:
        """Where the answer's tokens become text."""
        stops = bodies.stops(body)
        if self.words.tokenizer is None:
            if stops:
                raise self._no_text("stop")
            return Numbers()
        return Decoded(self.words.tokenizer, stops, body.min_tokens or 0)
