"""The engine process: one engine, pinned before anything is imported, spoken to over a socket.

Started as `python -m harness.worker FD CPUS NODES`; never imported by the driver.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness import agreement, engines, wire
from harness.errors import ArmbenchError
from harness.machine.numa import bind_memory
from harness.parent import die_with_parent
from harness.records.run import MemoryPolicy, Usage
from harness.units import parse_cpu_list

if TYPE_CHECKING:
    from harness.engines import Engine, ServingEngine


def _first_to_go() -> None:
    """Ask the kernel to kill this process before its driver when memory ends."""
    if sys.platform == "linux":
        try:
            Path("/proc/self/oom_score_adj").write_text("1000")
        except OSError:
            pass  # not ours to raise in some containers: then the kernel chooses


def _usage() -> Usage:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(
        user_s=used.ru_utime,
        system_s=used.ru_stime,
        minor_faults=used.ru_minflt,
        major_faults=used.ru_majflt,
        voluntary_switches=used.ru_nvcsw,
        involuntary_switches=used.ru_nivcsw,
        peak_rss_bytes=used.ru_maxrss * 1024,
    )


def _since(start: Usage, now: Usage) -> Usage:
    counted = {
        name: getattr(now, name) - getattr(start, name)
        for name in now.__struct_fields__
        if name != "peak_rss_bytes"
    }
    return Usage(**counted, peak_rss_bytes=now.peak_rss_bytes)


class Worker:
    """Answers requests one by one."""

    def __init__(self, policy: MemoryPolicy, heard: Callable[[], bool]) -> None:
        self.engine: Engine | None = None
        self.policy = policy
        self.heard = heard  # whether another request has come
        self.mark = _usage()

    def _loaded(self) -> Engine:
        if self.engine is None:
            raise ArmbenchError("no engine is loaded in this process")
        return self.engine

    def load(self, request: wire.Load) -> wire.Reply:
        start = time.monotonic_ns()
        self.engine = engines.module(request.spec.engine).load(request.spec)
        return wire.Loaded((time.monotonic_ns() - start) / 1e9)

    def allocate(self, request: wire.Allocate) -> wire.Reply:
        self._loaded().allocate(request.batch, request.context)
        gc.collect()
        gc.freeze()  # what is loaded stays: a full collection takes about 90 ms with torch
        gc.disable()
        return wire.Done()

    def generate(self, request: wire.Generate) -> wire.Reply:
        import numpy as np

        engine = self._loaded()
        prompt = np.asarray(request.tokens, dtype=np.int64)
        stamps: list[int] = []
        steps = []
        now = time.monotonic_ns
        started = now()
        tokens = engine.prefill(prompt)
        stamps.append(now())
        steps.append(tokens)
        for _ in range(request.output_tokens - 1):
            if request.may_be_cut and self.heard():
                break
            tokens = engine.decode(tokens)
            stamps.append(now())
            steps.append(tokens)
        return wire.Generated(started, stamps, np.stack(steps, axis=1).tolist())

    def open_slots(self, request: wire.Serve) -> wire.Reply:
        engine = cast("ServingEngine", self._loaded())
        engine.open_slots(request.setting.slots, request.setting.context)
        gc.collect()
        gc.freeze()  # collections go on, for a server lives long, but pass over what is loaded
        return wire.Done()

    def serve(self, channel: socket.socket, request: wire.Serve) -> None:
        """Serve until a step fails. Raises wire.Closed at hang-up."""
        from harness.serving.loop import Loop

        engine = cast("ServingEngine", self._loaded())
        try:
            Loop(engine, channel, request, self.answer).run()
        except wire.Closed:
            raise
        except Exception as error:  # noqa: BLE001 an engine may raise anything; the driver decides
            wire.send(channel, wire.Broken(_failed(error)))

    def report(self, _: wire.Report) -> wire.Reply:
        usage, engine = _since(self.mark, _usage()), self._loaded()
        return wire.Reported(usage, _plain(engine.facts()), engine.runtime(), self.policy)

    def mark_usage(self, _: wire.Mark) -> wire.Reply:
        self.mark = _usage()
        return wire.Done()

    def prepare(self, request: wire.Prepare) -> wire.Reply:
        converter = engines.converter(request.spec.engine)
        if converter is None:
            raise ArmbenchError(f"engine {request.spec.engine} converts nothing")
        converter.prepare(request.spec, Path(request.folder))
        return wire.Done()

    def reference(self, request: wire.MakeReference) -> wire.Reply:
        agreement.make_reference(Path(request.checkpoint), request.samples, Path(request.file))
        return wire.Done()

    def compare(self, request: wire.Compare) -> wire.Reply:
        engine, file = self._loaded(), Path(request.file)
        return wire.Compared(agreement.compare(engine, file, chunk=request.chunk))

    def trace(self, request: wire.Trace) -> wire.Reply:
        trace = getattr(self._loaded(), "trace", None)
        if trace is None:
            raise ArmbenchError("this engine does not tell which kernels it runs")
        work = wire.Generate(request.tokens, request.output_tokens)
        return wire.Traced(trace(lambda: self.generate(work)))

    def answer(self, request: wire.Request) -> wire.Reply:
        """The reply to one request; an error becomes a Failed reply."""
        handlers: dict[type, Any] = {
            wire.Load: self.load,
            wire.Allocate: self.allocate,
            wire.Generate: self.generate,
            wire.Mark: self.mark_usage,
            wire.Report: self.report,
            wire.Prepare: self.prepare,
            wire.MakeReference: self.reference,
            wire.Compare: self.compare,
            wire.Trace: self.trace,
            wire.Serve: self.open_slots,
        }
        try:
            reply: wire.Reply = handlers[type(request)](request)
        except Exception as error:  # noqa: BLE001 an engine may raise anything; the driver decides
            return _failed(error)
        return reply


def _failed(error: Exception) -> wire.Failed:
    """What the driver is told of `error`, which is being handled."""
    if isinstance(error, ArmbenchError):
        return wire.Failed(type(error).__name__, error.message, error.hint)
    lines = traceback.format_exc().splitlines()
    return wire.Failed(type(error).__name__, str(error), traceback=lines[-12:])


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """`facts` with anything but plain numbers, texts and lists of them turned into text."""
    kinds = (str, int, float, bool, list, type(None))
    return {k: v if type(v) in kinds else str(v) for k, v in facts.items()}


def main(arguments: list[str]) -> int:
    """Serve until the driver hangs up."""
    die_with_parent()
    _first_to_go()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    os.sched_setaffinity(0, parse_cpu_list(arguments[1]))
    policy = bind_memory(parse_cpu_list(arguments[2]))
    with socket.socket(fileno=int(arguments[0])) as channel:
        worker = Worker(policy, lambda: bool(select.select([channel], [], [], 0)[0]))
        try:
            while True:
                request = wire.receive_request(channel)
                if isinstance(request, wire.Stop):
                    continue
                reply = worker.answer(request)
                wire.send(channel, reply)
                if isinstance(request, wire.Serve) and isinstance(reply, wire.Done):
                    worker.serve(channel, request)
                    return 1
        except wire.Closed:
            return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
