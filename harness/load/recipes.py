"""How foreign servers are started, asked and stopped: configs/servers/*.toml, checked."""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from harness import places
from harness.errors import ArmbenchError, unknown_name
from harness.load.exposition import by_meaning, nearest
from harness.records.load import Endpoint
from harness.units import format_cpu_list

# What a server's metrics can tell, by our names; units are in them. Seconds are summed over
# requests, which overlap: they exceed the time that passed.
MEANINGS = {
    "running": "requests being worked on, when last asked",
    "waiting": "requests in the queue, when last asked",
    "requests": "requests that ended well",
    "failed": "requests that ended in an error",
    "queue_s": "time in the queue",
    "prefill_s": "time of prefill",
    "decode_s": "time of decode",
    "prefill_tokens": "input tokens computed, those from a cache left out",
    "decode_tokens": "output tokens",
    "steps": "passes through the model",
    "step_s": "time of all passes",
    "step_tokens": "tokens of all passes",
    "cache_tokens_asked": "input tokens looked for in the prefix cache",
    "cache_tokens_hit": "input tokens found in the prefix cache",
    "kv_share": "part of the KV cache in use, when last asked",
    "preemptions": "requests that were put back into the queue",
}
# What a caller sets; all but the first five may stay unset.
PLACEHOLDERS = {
    "model": "the model: a file, a folder or a name, as `model` of the recipe says",
    "model_name": "what requests call the model",
    "host": "the address to listen on",
    "port": "the port to listen on",
    "threads": "compute threads: one for each CPU",
    "cpus": "CPUs of the compute threads, as a kernel list (0-3,8)",
    "cpu_list": "the same, each CPU by itself (0,1,2,3,8)",
    "cpu_mask": "the same as a hexadecimal mask (10f)",
    "places": "the same as OMP_PLACES, in the order of the threads ({0},{1},{2},{3},{8})",
    "slots": "requests worked on at once",
    "context": "tokens of one request, input and output",
    "total_context": "context × slots",
    "chunk": "input tokens of one pass",
    "kv_gib": "GiB of the KV cache",
}
# What our own server's metrics mean, see `serving.meters`.
OWN = {
    "running": ["armbench_requests_running"],
    "waiting": ["armbench_requests_waiting"],
    "queue_s": ["armbench_request_queue_seconds_sum"],
    "prefill_tokens": ["armbench_prompt_tokens_total"],
    "decode_tokens": ["armbench_generation_tokens_total"],
    "steps": ["armbench_steps_total"],
    "step_s": ["armbench_step_seconds_sum"],
}
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


class Readiness(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Ready is when a GET of `path` answers `status` with every member of `json` in its body."""

    path: str
    status: int = 200
    json: dict[str, Any] = field(default_factory=dict)
    within_s: float = 300.0


class Version(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A command that prints the server's version; `pattern`'s first group is it."""

    command: list[str]
    pattern: str = r"(\S.*)"


class Requests(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The OpenAI endpoints it has below `path`, and what it takes beyond that protocol.

    `always` are members of every request's body that make requests comparable. `exact_length` are
    members that make the output as long as asked for (`min_tokens = true`: the request's own).
    `token_ids` are members that make events carry token ids; with `running_usage` they carry
    their usage so far.
    """

    endpoints: list[Endpoint]
    path: str = "/v1"
    prompt_ids: bool = False  # whether completions take token ids as the prompt
    always: dict[str, Any] = field(default_factory=dict)
    exact_length: dict[str, float | int | bool] = field(default_factory=dict)
    token_ids: dict[str, Any] = field(default_factory=dict)
    running_usage: bool = False


class Metrics(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where Prometheus metrics are, and which of them (summed, without labels) mean what."""

    path: str
    meaning: dict[str, list[str]] = field(default_factory=dict)


class Teardown(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How it ends: SIGTERM to the first process or to all of them, SIGKILL `within_s` later."""

    to: Literal["first", "all"] = "first"
    within_s: float = 10.0


class Recipe(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One server. An entry of `arguments` or `environment` whose settings are unset is left out.

    `affinity` says how compute threads get their CPUs: by a flag, by the environment, or only by
    the process's own affinity, which every server inherits.
    """

    name: str
    title: str
    sources: list[str]
    as_of: datetime.date
    model: Literal["gguf", "folder", "openvino", "name"]
    affinity: Literal["flag", "environment", "inherited"]
    command: list[str]
    install: str
    ready: Readiness
    requests: Requests
    ran: str | None = None  # the version and machine it was run with; none: from documents only
    note: str | None = None
    arguments: dict[str, list[str]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    version: Version | None = None
    metrics: Metrics | None = None
    teardown: Teardown = Teardown()


class Settings(Struct, kw_only=True, frozen=True):
    """What a server is to run: `cpus` in the order of its compute threads.

    `front_cpus` are further CPUs that its other threads may use. Settings left None are the
    server's own choice.
    """

    model: str
    model_name: str
    cpus: tuple[int, ...]
    front_cpus: tuple[int, ...] = ()
    slots: int | None = None
    context: int | None = None
    chunk: int | None = None
    kv_gib: int | None = None


def shipped() -> list[str]:
    """Names of the recipes that come with the program."""
    return sorted(p.stem for p in _folder().glob("*.toml"))


def _folder() -> Path:
    return places.config_dir() / "servers"


def read_recipe(name: str) -> Recipe:
    """The recipe `name`: a shipped one, or a TOML file by its path.

    Raises ArmbenchError for an unknown name, malformed TOML, an unknown key, a wrong type, a
    placeholder or a meaning that there is not.
    """
    path = Path(name)
    if path.suffix != ".toml" or not path.is_file():
        if name not in shipped():
            raise unknown_name("server recipe", name, shipped())
        path = _folder() / f"{name}.toml"
    try:
        recipe = msgspec.convert(tomllib.loads(path.read_text()), Recipe)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ArmbenchError(f"server recipe {path} is not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ArmbenchError(
            f"server recipe {path}: {error}", hint="see configs/servers for examples"
        ) from error
    _check(recipe, path)
    return recipe


def in_our_words(metrics: Mapping[str, float]) -> tuple[str, dict[str, float]] | None:
    """(server, values by the words of MEANINGS) of `exposition.delta`, by the recipe they fit.

    Our own server is `armbench`. None where the metrics are of no server that is known.
    """
    known: dict[str, Mapping[str, Sequence[str]]] = {"armbench": OWN}
    for name in shipped():
        if (told := read_recipe(name).metrics) is not None:
            known[name] = told.meaning
    server = nearest(metrics, known)
    return None if server is None else (server, by_meaning(metrics, known[server]))


def _check(recipe: Recipe, path: Path) -> None:
    texts = [*recipe.command, *recipe.environment.values()]
    texts += [text for part in recipe.arguments.values() for text in part]
    for name in _placeholders(texts):
        if name not in PLACEHOLDERS:
            raise unknown_name(f"placeholder in server recipe {path}", name, PLACEHOLDERS)
    for meaning in recipe.metrics.meaning if recipe.metrics else ():
        if meaning not in MEANINGS:
            raise unknown_name(f"meaning in server recipe {path}", meaning, MEANINGS)
    if not recipe.command or not recipe.requests.endpoints:
        raise ArmbenchError(f"server recipe {path} has no command or no endpoint")
    if recipe.version is not None:
        try:
            groups = re.compile(recipe.version.pattern).groups
        except re.error as error:
            raise ArmbenchError(f"server recipe {path}: version.pattern: {error}") from error
        if groups < 1:
            raise ArmbenchError(
                f"server recipe {path}: version.pattern {recipe.version.pattern!r} has no group",
                hint="put the part that is the version in parentheses",
            )


def _placeholders(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from _PLACEHOLDER.findall(text)


def values(settings: Settings, host: str, port: int) -> dict[str, str]:
    """The text of every placeholder that is set."""
    cpus = settings.cpus
    known: dict[str, object] = {
        "model": settings.model,
        "model_name": settings.model_name,
        "host": host,
        "port": port,
        "threads": len(cpus),
        "cpus": format_cpu_list(cpus),
        "cpu_list": ",".join(map(str, sorted(cpus))),
        "cpu_mask": f"{sum(1 << cpu for cpu in set(cpus)):x}",
        "places": ",".join(f"{{{cpu}}}" for cpu in cpus),
        "slots": settings.slots,
        "context": settings.context,
        "chunk": settings.chunk,
        "kv_gib": settings.kv_gib,
    }
    if settings.context is not None:
        known["total_context"] = settings.context * (settings.slots or 1)
    return {name: str(value) for name, value in known.items() if value is not None}


def command_line(recipe: Recipe, known: Mapping[str, str]) -> list[str]:
    """The command with every part of `arguments` whose placeholders are all in `known`.

    Raises ArmbenchError for a setting that is asked for and that this server does not have.
    """
    _check_used(recipe, known)
    parts = [recipe.command, *(p for p in recipe.arguments.values() if _complete(p, known))]
    return [_filled(text, known) for part in parts for text in part]


def variables(recipe: Recipe, known: Mapping[str, str]) -> dict[str, str]:
    """The recipe's environment variables whose placeholders are all in `known`."""
    return {
        name: _filled(text, known)
        for name, text in recipe.environment.items()
        if _complete([text], known)
    }


def _check_used(recipe: Recipe, known: Mapping[str, str]) -> None:
    texts = [*recipe.command, *recipe.environment.values()]
    texts += [text for part in recipe.arguments.values() for text in part]
    used = set(_placeholders(texts))
    used |= {"context"} if "total_context" in used else set()
    for name in ("slots", "context", "chunk", "kv_gib"):
        if name in known and name not in used:
            raise ArmbenchError(
                f"{name} is {known[name]}, but {recipe.title} has no setting for "
                f"{PLACEHOLDERS[name]}",
                hint=f"leave {name} out for server {recipe.name!r}",
            )


def _complete(texts: Sequence[str], known: Mapping[str, str]) -> bool:
    return all(name in known for name in _placeholders(texts))


def _filled(text: str, known: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: known[match[1]], text)
