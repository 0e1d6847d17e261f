"""The server process: starts the pinned engines, listens on the CPUs beside them, drains, ends.

How it ends: after SIGTERM or SIGINT new requests get 503, those that are here have `drain_s`, and
the exit code is 0. At a second signal it ends at once. Where an engine died the server stays, with
the others or to say so (503), until it is told to end; the exit code is 1 then.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from harness import engines, wire
from harness.crew import Crew
from harness.engine_process import EngineFailed, EngineProcess
from harness.engines import EngineSpec
from harness.errors import ArmbenchError, Exit
from harness.serving.options import Ready, ServeOptions, Service
from harness.serving.resolve import Say, resolve

if TYPE_CHECKING:
    from harness.serving.face import Words

# Each connection has no more than this in the kernel that its client has not read.
_SOCKET_BUFFER = 2**18
_PACKAGES = ("httptools", "jinja2", "starlette", "tokenizers", "uvicorn")
Announce = Callable[[Ready], None]


class ServerFailed(ArmbenchError):
    """The engine could not be started, or not in time."""

    exit_code = Exit.FAULT


def serve(options: ServeOptions, announce: Announce, say: Say) -> Exit:
    """Serve as `options` ask until told to end; `announce` is called once it listens.

    `say` is called with what is being done before. Raises ArmbenchError where it can't start.
    """
    check_packages()
    return run(resolve(options, say), announce, say)


def run(service: Service, announce: Announce, say: Say) -> Exit:
    """Serve `service` until told to end. Raises ArmbenchError where it can't start."""
    check_packages()
    from harness.serving.face import Words
    from harness.serving.running import RunningServer

    words = Words(Path(service.spec.checkpoint))
    with _listener(service) as listener, _on_cpus(service.driver_cpus):
        try:
            with _crew(service) as crew:
                say("loading the engine")
                load_s = _load(crew, service, words)
                server = RunningServer(service, words, crew, listener, load_s)
                return asyncio.run(server.run(announce, say))
        except EngineFailed as error:
            raise ServerFailed(
                f"the engine did not start: {error.reason}",
                hint="\n".join(error.stderr_tail[-3:]) or None,
            ) from error


def check_packages() -> None:
    """Raise ArmbenchError where a package is missing that serving needs beside an engine's."""
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise ArmbenchError(
            f"serving needs {', '.join(missing)}, not installed here",
            hint="pip install 'armbench[serve]'",
        )


def _crew(service: Service) -> Crew:
    """An engine process for each instance of `service`."""
    spec = service.spec
    nodes = {tuple(one.cpus): one.memory_nodes for one in service.places}

    def start(own: EngineSpec) -> EngineProcess:
        variables = engines.module(own.engine).environment(own.cpus, own.options)
        return EngineProcess(own.cpus, variables, nodes[tuple(own.cpus)])

    return Crew([replace(spec, cpus=one.cpus) for one in service.places], start)


def _load(crew: Crew, service: Service, words: Words) -> float:
    """Load the engines and open their slots; seconds that loading took, of the slowest."""
    asked = wire.Serve(service.setting, service.max_waiting, words.eos)

    def load(number: int, process: EngineProcess) -> float:
        limit_s = service.load_timeout_s
        loaded = process.ask(wire.Load(crew.specs[number]), wire.Loaded, limit_s)
        process.ask(asked, wire.Done, limit_s)
        return loaded.seconds

    return max(crew.each(load))


@contextlib.contextmanager
def _listener(service: Service) -> Iterator[socket.socket]:
    """A bound socket that does not listen yet. Raises ArmbenchError where the port is taken."""
    try:
        found = socket.getaddrinfo(
            service.host, service.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ArmbenchError(f"host {service.host!r}: {error.strerror}") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it: what a client does not read is bounded in the kernel too.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        try:
            listener.bind(address)
        except OSError as error:
            raise ArmbenchError(
                f"{service.host} port {service.port} can't be listened on: {error.strerror}",
                hint="give another port; 0 takes any that is free",
            ) from error
        yield listener


@contextlib.contextmanager
def _on_cpus(cpus: list[int]) -> Iterator[None]:
    """This process on `cpus`; on its old ones afterwards."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
