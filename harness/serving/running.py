"""A server from its first request to its last: warmed up, listening, drained."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from harness.crew import Crew
from harness.engine_process import EngineFailed
from harness.errors import Exit
from harness.serving.app import make_app
from harness.serving.dispatch import Dispatcher
from harness.serving.face import Face, Words
from harness.serving.options import InstanceReady, Ready, Service
from harness.serving.pipe import Connection
from harness.serving.refusal import ApiError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_BACKLOG = 2048
_KEEP_ALIVE_S = 600  # pooled connections of a client may idle between two trials
_CLOSING_S = 2
Announce = Callable[[Ready], None]
Say = Callable[[str], None]


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Uvicorn(uvicorn.Server):
    """uvicorn's server; signals are ours. `started` is called when it listens."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class RunningServer:
    """One server on a bound listener and engine processes whose slots are open."""

    def __init__(
        self,
        service: Service,
        words: Words,
        crew: Crew,
        listener: socket.socket,
        load_s: float,
    ) -> None:
        self.service, self.words, self.crew = service, words, crew
        self.listener, self.load_s = listener, load_s
        self.signals = 0
        self.told, self.told_twice = asyncio.Event(), asyncio.Event()

    def ready(self) -> Ready:
        spec = self.service.spec
        instances = [
            InstanceReady(pid=pid, cpus=one.cpus)
            for pid, one in zip(self.crew.pids, self.service.places, strict=True)
        ]
        return Ready(
            url=_url(self.listener),
            model=self.service.name,
            pid=os.getpid(),
            engine_pid=instances[0].pid,
            engine=spec.engine,
            dtype=spec.dtype,
            cpus=[cpu for one in instances for cpu in one.cpus],
            driver_cpus=self.service.driver_cpus,
            setting=self.service.setting,
            load_s=self.load_s,
            instances=instances,
            text=self.words.reason,
        )

    async def run(self, announce: Announce, say: Say) -> Exit:
        """Warm up, serve, drain. Raises EngineFailed where an engine dies before it served."""
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._signalled)
        service = self.service
        link = Dispatcher(
            self.crew.processes, service.setting, service.max_waiting, service.step_timeout_s
        )
        try:
            say("warming up")
            if not await self._warmed_up(link):
                return Exit.INTERRUPTED
            await self._serve(link, announce)
            died = bool(link.dead)
        except ApiError as error:
            tail = next((p.tail() for p in self.crew.processes if p.process.poll()), [])
            raise EngineFailed(error.message, tail) from error
        finally:
            link.close()
        if self.signals > 1:
            return Exit.INTERRUPTED
        return Exit.FAULT if died else Exit.FINE

    def _signalled(self) -> None:
        self.signals += 1
        self.told.set()
        if self.signals > 1:
            self.told_twice.set()

    async def _warmed_up(self, link: Dispatcher) -> bool:
        """True when warm; False where it was told to end before."""
        warm = asyncio.ensure_future(link.start(self.service.vocabulary))
        told = asyncio.ensure_future(self.told.wait())
        await asyncio.wait((warm, told), return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if not warm.done():
            warm.cancel()
            return False
        warm.result()
        return True

    async def _serve(self, link: Dispatcher, announce: Announce) -> None:
        ready = self.ready()
        config = uvicorn.Config(
            make_app(Face(self.service, self.words, link, ready)),
            loop="asyncio",
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_CLOSING_S,
        )
        http = _Uvicorn(config, started=lambda: announce(ready))
        gc.collect()
        gc.freeze()  # what is loaded stays
        listening = asyncio.create_task(http.serve(sockets=[self.listener]))
        await self.told.wait()
        await self._drain(link)
        http.should_exit = True
        http.force_exit = self.signals > 1
        await listening

    async def _drain(self, link: Dispatcher) -> None:
        """Take nothing new, and end when nothing is left, the time is over, or at once."""
        limit = self.service.drain_s
        why = "the server is shutting down"
        link.shut(ApiError(503, why, code="shutting_down", retry_after_s=limit))
        emptied = asyncio.ensure_future(link.emptied(limit))
        twice = asyncio.ensure_future(self.told_twice.wait())
        await asyncio.wait((emptied, twice), return_when=asyncio.FIRST_COMPLETED)
        emptied.cancel()
        twice.cancel()
        link.fail_all(ApiError(503, "the server has shut down", code="shutting_down"))
