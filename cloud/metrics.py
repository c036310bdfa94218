"""What a verifier counts, as Prometheus metrics in a registry of its own: names, labels, buckets.

What does not live here: who tells it (calls.py, measured.py, server.py) and how the figures are fetched (exporter.py).

No label has values that a peer can choose, so the number of series is bounded whatever clients do. That is why compute is
not told by account: an account may be a connection. What each cost is logged at its sessions' ends (sessions.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cloud.engine.base import Checked, Chunk, Engine, Iteration, Ran, Streamed
from runtime.wire import synera_pb2 as pb
from runtime.wire.statuses import STATUS

METHODS = tuple(pb.DESCRIPTOR.services_by_name["Synera"].methods_by_name)
CHECK, CHUNK, STREAM = "check", "chunk", "stream"
BUG = "bug"
"""The reason of a rejection that tells no kind."""
POSITIONS = 64
"""Most positions of a draft that are told apart; what lies beyond counts as the last."""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_CALL_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class Metrics:
    """The figures of one verifier.

    `answered`, `checked`, `forwarded` and `streamed` are called on the event loop, `iterated` by the engine's thread, and the registry is
    read by the exporter's threads.
    """

    def __init__(self, engine: Engine, *, max_draft_tokens: int, max_sessions: int) -> None:
        """Make the figures, all at zero, and have the engine tell of its forwards.

        Args:
            engine: not started yet; asked for what it holds whenever the registry is read.
            max_draft_tokens: longest draft of a check.
            max_sessions: most sessions and streams at a time.
        """
        self.registry = CollectorRegistry()
        self._acceptance = _Acceptance(min(max_draft_tokens, POSITIONS))
        self._calls()
        self._answers()
        self._iterations()
        info = engine.info
        about = {"engine": info.engine, "model": info.model, "architecture": info.architecture, "fingerprint": info.fingerprint}
        build = Gauge(
            "synera_build_info", "What is served, and by which version; always 1.", ("version", *about), registry=self.registry
        )
        build.labels(version("synera-env"), *about.values()).set(1)
        self.serving = Gauge("synera_serving", "1 while health says SERVING, otherwise 0.", registry=self.registry)
        self.sessions = Gauge("synera_sessions", "Sessions that are open.", registry=self.registry)
        self.streams = Gauge("synera_streams", "Streams that are decoded.", registry=self.registry)
        kept = "Bytes of chunks' answers that are made, wait to be read, or are kept for who asks again."
        self.answer_bytes = Gauge("synera_answer_bytes", kept, registry=self.registry)
        places = Gauge("synera_max_sessions", "Most sessions and streams at a time.", registry=self.registry)
        places.set(max_sessions)
        self.registry.register(self._acceptance)
        self.registry.register(_Usage(engine))
        ProcessCollector(registry=self.registry)
        if engine.pid != os.getpid():
            ProcessCollector(namespace="synera_engine", pid=lambda: engine.pid, registry=self.registry)
        engine.watch(self.iterated)

    def _calls(self) -> None:
        of, by_method = self.registry, ("method",)
        in_flight = Gauge("synera_requests_in_flight", "Calls that have not ended.", by_method, registry=of)
        self._requests = Counter("synera_requests", "Calls that have ended, by gRPC status.", ("method", "code"), registry=of)
        self._rejections = Counter(
            "synera_rejections", "Calls that were refused, by the error's kind.", ("reason",), registry=of
        )
        seconds = Histogram("synera_request_seconds", "From a call to its end.", by_method, registry=of, buckets=_CALL_SECONDS)
        # Looking a label up takes longer than counting.
        self.in_flight = {method: in_flight.labels(method) for method in METHODS}
        self._seconds = {method: seconds.labels(method) for method in METHODS}
        self._well = {method: self._requests.labels(method, "OK") for method in METHODS}
        for reason in (*(kind.__name__ for kind in STATUS), BUG):
            self._rejections.labels(reason)

    def _answers(self) -> None:
        of, by_kind, kinds = self.registry, ("kind",), (CHECK, CHUNK, STREAM)
        queue = Histogram(
            "synera_queue_seconds",
            "Wait of a check, a chunk of hidden states, or a token of a stream, for its forward.",
            by_kind,
            registry=of,
            buckets=_SECONDS,
        )
        compute = Histogram(
            "synera_compute_seconds",
            "The forwards that gave a verdict, states or a token; others share them.",
            by_kind,
            registry=of,
            buckets=_SECONDS,
        )
        charged = Counter("synera_charged_compute_seconds", "Shares of forwards, as charged to sessions.", by_kind, registry=of)
        processed = Counter(
            "synera_processed_tokens", "Tokens that the LLM processed, as charged to sessions.", by_kind, registry=of
        )
        self._generated = Counter("synera_generated_tokens", "Tokens of streams.", registry=of)
        directions = ("direction",)
        rows = Counter("synera_chunk_rows", "Hidden states that came in chunks and went back.", directions, registry=of)
        states = Counter("synera_state_bytes", "Bytes of those hidden states.", directions, registry=of)
        self._rows, self._states = ([each.labels(way) for way in ("in", "out")] for each in (rows, states))
        self._queue, self._compute = ({kind: each.labels(kind) for kind in kinds} for each in (queue, compute))
        self._charged, self._processed = ({kind: each.labels(kind) for kind in kinds} for each in (charged, processed))

    def _iterations(self) -> None:
        of = self.registry
        self._iteration = Histogram("synera_iteration_seconds", "Duration of a forward.", registry=of, buckets=_SECONDS)
        self._batch = Histogram("synera_batch_requests", "Requests in a forward.", registry=of, buckets=_REQUESTS)
        self._size = Histogram("synera_batch_size_tokens", "Tokens in a forward.", registry=of, buckets=_TOKENS)
        tokens = Counter("synera_batch_tokens", "Tokens of all forwards, by what they are for.", ("kind",), registry=of)
        self._verify, self._prefill, self._decode = (tokens.labels(kind) for kind in ("verify", "prefill", "decode"))

    def answered(self, method: str, code: str, seconds: float, reason: str | None) -> None:
        """Count a call of a method of `METHODS` that has ended.

        Args:
            method: its name.
            code: name of the gRPC status.
            seconds: how long it took.
            reason: name of the error's class, where it was refused.
        """
        (self._well[method] if code == "OK" else self._requests.labels(method, code)).inc()
        self._seconds[method].observe(seconds)
        if reason is not None:
            self._rejections.labels(reason).inc()

    def checked(self, drafted: int, checked: Checked) -> None:
        """Count a verdict on a draft of so many tokens."""
        self._acceptance.add(drafted, checked.accepted)
        self._worked(CHECK, checked)

    def forwarded(self, chunk: Chunk, ran: Ran) -> None:
        """Count a chunk that was run."""
        for way, (rows, states) in enumerate(((chunk.rows, chunk.states), (chunk.returned, ran.states))):
            self._rows[way].inc(rows)
            self._states[way].inc(len(states))
        self._worked(CHUNK, ran)

    def streamed(self, token: Streamed) -> None:
        """Count a token of a stream."""
        self._generated.inc()
        self._worked(STREAM, token)

    def _worked(self, kind: str, done: Checked | Ran | Streamed) -> None:
        self._queue[kind].observe(done.queue_ms / 1e3)
        self._compute[kind].observe(done.compute_ms / 1e3)
        self._charged[kind].inc(done.compute_share_ms / 1e3)
        self._processed[kind].inc(done.processed_tokens)

    def iterated(self, forward: Iteration) -> None:
        """Count a forward."""
        self._iteration.observe(forward.seconds)
        self._batch.observe(forward.requests)
        self._size.observe(forward.verify_tokens + forward.prefill_tokens + forward.decode_tokens)
        self._verify.inc(forward.verify_tokens)
        self._prefill.inc(forward.prefill_tokens)
        self._decode.inc(forward.decode_tokens)


class _Acceptance(Collector):
    """Verified and accepted tokens by position of the draft, from 1.

    Kept as how many drafts had each length, and how many had each number accepted, so that a check costs two additions; a
    position is reached by all that are as long or longer.
    """

    def __init__(self, positions: int) -> None:
        self._drafted, self._accepted = [0] * (positions + 1), [0] * (positions + 1)
        self._beyond_drafted = self._beyond_accepted = 0

    def add(self, drafted: int, accepted: int) -> None:
        """Count a check; what is verified first, so that a reader between the two never sees more accepted than verified."""
        last = len(self._drafted) - 1
        self._drafted[min(drafted, last)] += 1
        self._beyond_drafted += max(0, drafted - last)
        self._accepted[min(accepted, last)] += 1
        self._beyond_accepted += max(0, accepted - last)

    def collect(self) -> Iterator[Metric]:
        """See :class:`prometheus_client.registry.Collector`."""
        accepted = _reached(self._accepted, self._beyond_accepted)
        verified = _reached(self._drafted, self._beyond_drafted)
        for name, says, counts in (
            ("synera_verified_tokens", "Draft tokens that were asked about, by position in the draft.", verified),
            ("synera_accepted_tokens", "Draft tokens that the LLM would have chosen too, by position in the draft.", accepted),
        ):
            family = CounterMetricFamily(name, says, labels=("position",))
            for position, count in enumerate(counts, 1):
                family.add_metric((str(position),), count)
            yield family


def _reached(counts: list[int], beyond: int) -> list[int]:
    """Turn how many have each length [0..n] into how many reach each position [1..n]; what lies beyond is added to the last."""
    reached = [sum(counts[position:]) for position in range(1, len(counts))]
    reached[-1] += beyond
    return reached


class _Usage(Collector):
    """What the engine holds at the moment of reading."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """See :class:`prometheus_client.registry.Collector`."""
        usage = self._engine.usage
        yield GaugeMetricFamily("synera_waiting_requests", "Requests that wait for a forward.", usage.waiting)
        blocks = GaugeMetricFamily("synera_kv_blocks", "Blocks of the KV pool; in all they are the pool.", labels=("state",))
        free = usage.blocks - usage.used_blocks - usage.cached_blocks
        for state, count in (("used", usage.used_blocks), ("cached", usage.cached_blocks), ("free", free)):
            blocks.add_metric((state,), count)
        yield blocks
        yield CounterMetricFamily("synera_kv_evictions", "Sequences that lost their blocks to others.", usage.evicted)
