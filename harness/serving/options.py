"""How a server is asked for, and what one process needs to know to serve."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from harness.engines import EngineSpec
from harness.machine.placement import Instance
from harness.records.load import ServeSetting

DEFAULT_CONTEXT = 4096


class ServeOptions(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a user asks for. None leaves a value to the model or the machine.

    `instances` engines run beside each other, each with `threads` on CPUs of its own. Of each of
    them, `slots` sequences run at once, each of up to `context` tokens (the model's, at most 4096);
    together they hold `kv_tokens` (as many as fit the slots). `chunk` tokens of prompts at most go
    into one step: more makes first tokens come sooner and the others wait longer. `max_waiting`
    requests of one client wait, more are refused. On SIGTERM what runs has `drain_s` to end. A step
    that takes longer than `step_timeout_s` counts as hung.
    """

    model: str
    engine: str = "torch"
    dtype: str = "float32"
    threads: int | None = None
    instances: int | None = None  # None: one, or as many as the placement has
    placement: str = "compact"
    options: dict[str, Any] = field(default_factory=dict)
    name: str | None = None  # in the API; the model's where it is None
    host: str = "127.0.0.1"
    port: int = 8000
    slots: int = 8
    context: int | None = None
    kv_tokens: int | None = None
    chunk: int = 128
    max_waiting: int = 256
    drain_s: float = 30.0
    step_timeout_s: float = 300.0


class Service(Struct, kw_only=True):
    """Everything resolved: `python -m harness.serving FILE` serves by it.

    `spec` is that of the first of `instances`; where none is listed it is the only one. Port 0
    takes any that is free. With `tied` the process dies with the one that started it.
    """

    spec: EngineSpec
    name: str
    vocabulary: int
    setting: ServeSetting
    driver_cpus: list[int]
    instances: list[Instance] = field(default_factory=list)
    max_waiting: int = 256
    host: str = "127.0.0.1"
    port: int = 0
    drain_s: float = 30.0
    step_timeout_s: float = 300.0
    load_timeout_s: float = 1800.0
    tied: bool = False

    @property
    def places(self) -> list[Instance]:
        """Where each engine runs."""
        return self.instances or [Instance(cpus=self.spec.cpus)]


class InstanceReady(Struct, kw_only=True):
    """One engine behind a server."""

    pid: int
    cpus: list[int]


class Ready(Struct, kw_only=True, tag=True, tag_field="state"):
    """A server that listens; `engine_pid` is the first of its engines, `cpus` are those of all."""

    url: str
    model: str
    pid: int
    engine_pid: int
    engine: str
    dtype: str
    cpus: list[int]
    driver_cpus: list[int]
    setting: ServeSetting
    load_s: float
    instances: list[InstanceReady]
    text: str | None = None  # why only token ids are taken


class NotReady(Struct, kw_only=True, tag=True, tag_field="state"):
    """A server that could not start; `mendable` where the user can do something about it."""

    error: str
    hint: str | None = None
    mendable: bool = True
