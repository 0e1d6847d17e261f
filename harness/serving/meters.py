"""What the server tells Prometheus. Names begin with armbench_ and end with their unit."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from harness.records.load import ServedRequest, ServeSetting
from harness.units import NS_PER_S
from harness.wire import Stepped

_SECONDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
    *(0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
)
_COUNTS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Meters:
    """Counters, gauges and histograms of one server, in a registry of their own.

    They are over all `instances`, but for those that are labelled by instance.
    """

    def __init__(self, setting: ServeSetting, instances: int = 1) -> None:
        self._levels = [(0, 0, 0)] * instances
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.running = self._gauge("armbench_requests_running", "Requests that hold a slot")
        self.waiting = self._gauge("armbench_requests_waiting", "Requests that wait for a slot")
        self.kv_used = self._gauge("armbench_kv_tokens_used", "KV tokens reserved by requests")
        kv_tokens, slots = instances * setting.kv_tokens, instances * setting.slots
        self._gauge("armbench_kv_tokens", "KV tokens there are").set(kv_tokens)
        self._gauge("armbench_slots", "Sequences that run at once").set(slots)
        self.outstanding = self._by_instance(
            "armbench_instance_outstanding_tokens", "Tokens an engine has yet to pass, at most"
        )
        self.up = self._by_instance("armbench_instance_up", "Whether an engine is alive")
        self.prompt = self._counter("armbench_prompt_tokens", "Prompt tokens passed")
        self.generated = self._counter("armbench_generation_tokens", "Tokens generated")
        self.steps = self._counter("armbench_steps", "Steps of the engine")
        self.ended = Counter(
            "armbench_requests",
            "Requests by how they ended; refused ones never waited",
            ("finish",),
            registry=self.registry,
        )
        self.queue = self._seconds("armbench_request_queue_seconds", "From arrival to first step")
        self.ttft = self._seconds("armbench_time_to_first_token_seconds", "From arrival")
        self.tpot = self._seconds("armbench_time_per_output_token_seconds", "After the first")
        self.latency = self._seconds("armbench_request_seconds", "From arrival to last token")
        self.step_time = self._seconds("armbench_step_seconds", "One step of the engine")
        self.batch = Histogram(
            "armbench_step_decoding_sequences",
            "Sequences that got one more token in a step",
            buckets=_COUNTS,
            registry=self.registry,
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def _by_instance(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("instance",), registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self.registry)

    def _seconds(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, buckets=_SECONDS, registry=self.registry)

    def step(self, s: Stepped, instance: int = 0) -> None:
        """Count one step of an engine."""
        self.levels(instance, s.running, s.waiting, s.kv_tokens)
        self.prompt.inc(s.prefill_tokens)
        self.generated.inc(len(s.ids))
        self.steps.inc()
        self.step_time.observe((s.end_ns - s.start_ns) / NS_PER_S)
        self.batch.observe(s.decoding)

    def levels(self, instance: int, running: int, waiting: int, kv_tokens: int) -> None:
        """Set what an engine has now; what is told is the sum."""
        self._levels[instance] = (running, waiting, kv_tokens)
        gauges = (self.running, self.waiting, self.kv_used)
        for gauge, each in zip(gauges, zip(*self._levels, strict=True), strict=True):
            gauge.set(sum(each))

    def load(self, instance: int, outstanding: int, *, alive: bool) -> None:
        """Set what an engine has before it."""
        self.outstanding.labels(str(instance)).set(outstanding)
        self.up.labels(str(instance)).set(alive)

    def request(self, served: ServedRequest) -> None:
        """Count one request that has ended; times only as far as it came."""
        self.ended.labels(served.finish or "unfinished").inc()
        if served.admitted_ns is not None:
            self.queue.observe((served.admitted_ns - served.queued_ns) / NS_PER_S)
        if served.first_ns is None or served.end_ns is None:
            return
        self.ttft.observe((served.first_ns - served.queued_ns) / NS_PER_S)
        if served.finish in ("stop", "length"):
            self.latency.observe((served.end_ns - served.queued_ns) / NS_PER_S)
            if served.output_tokens > 1:
                gaps = served.output_tokens - 1
                self.tpot.observe((served.end_ns - served.first_ns) / gaps / NS_PER_S)

    def refused(self) -> None:
        """Count one request that found no room."""
        self.ended.labels("refused").inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text form."""
        return generate_latest(self.registry)
