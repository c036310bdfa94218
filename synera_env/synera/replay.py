"""The replayed world: a drafter and a verifier that walk a token graph on a simulated clock.

What does not live here: the session that they serve (runtime/session.py) and the live world (live.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.clock import SimulatedClock
from runtime.errors import UncoveredError
from runtime.model.exits import ExitLedger, resolve_exit
from runtime.synera.lens import Lens
from runtime.synera.session import DraftToken, Limits, Session, Verdict
from runtime.wire.sizes import (
    GRPC_OVERHEAD_BYTES,
    open_request_bytes,
    open_response_bytes,
    verify_request_bytes,
    verify_response_bytes,
)
from traces.links.trace import LinkTrace
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import Graph, GraphMeta, GraphSet


class _Walk:
    """The prefix as a path of nodes; shared by drafter and verifier."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.prompt_tokens = len(graph.prompt_tokens)
        self.nodes = [0]

    def follow(self, node: int, token: int) -> int:
        child = self.graph.child(node, token)
        if child < 0:
            raise UncoveredError(
                f"the recorded graph of {self.graph.prompt[:40]!r} does not know token {token} at depth {int(self.graph.depth[node])}; "
                "record with a larger node budget"
            )
        return child


class ReplayDrafter:
    """Implements :class:`runtime.synera.session.Drafter` over a graph; charges what the same work costs by the profile."""

    def __init__(self, walk: _Walk, exit_layers: tuple[int, ...], clock: SimulatedClock, profile: DeviceProfile) -> None:
        self._walk, self._clock, self._profile = walk, clock, profile
        self._ledger = ExitLedger(exit_layers)

    def begin(self, prompt: Sequence[int]) -> None:
        """Start from the graph's prompt."""
        self._walk.nodes = [0]
        self._ledger.truncate(0)

    def push(self, token: int) -> None:
        """Append a token that the cloud chose."""
        self._walk.nodes.append(self._walk.follow(self._walk.nodes[-1], token))

    def rollback(self, length: int) -> None:
        """Keep the first `length` tokens of the prefix."""
        del self._walk.nodes[1 + length - self._walk.prompt_tokens :]
        self._ledger.truncate(length)

    def next(self, exit_index: int, exit_margin: float) -> DraftToken:
        """Read the next token off the graph; leave at the first exit whose margin reaches `exit_margin`."""
        graph, node = self._walk.graph, self._walk.nodes[-1]
        began = self._clock.now()
        length = self._walk.prompt_tokens + len(self._walk.nodes) - 1
        deepest = resolve_exit(exit_index, len(self._ledger.exit_layers))
        self._ledger.truncate(length - 1)
        ran, heads, left = [], 0, deepest
        for segment in self._ledger.segments(length, deepest):
            ran.append(segment)
            left = segment.exit_index
            if left < deepest and exit_margin >= 1.0:
                continue
            heads += 1
            if left == deepest or graph.margin[node, left] >= exit_margin:
                break
        self._clock.charge(self._profile.draft_seconds(ran, heads), since=began)
        token = int(graph.exit_token[node, left])
        self._walk.nodes.append(self._walk.follow(node, token))
        return DraftToken(
            token=token,
            exit_index=left,
            confidence=float(graph.confidence[node, left]),
            margin=float(graph.margin[node, left]),
            entropy=float(graph.entropy[node, left]),
            runner_up=int(graph.runner_up[node, left]),
            sketch=graph.sketch[node, left].astype(np.float32),
            attention=graph.attention[node],
        )


@dataclass(frozen=True)
class Radio:
    """A link trace and where in it an answer starts."""

    trace: LinkTrace
    offset_seconds: float = 0.0

    def uplink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        """See `LinkTrace`; `at_seconds` counts from the answer's start."""
        return self.trace.uplink_seconds(self.offset_seconds + at_seconds, size_bytes)

    def downlink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        """See `LinkTrace`; `at_seconds` counts from the answer's start."""
        return self.trace.downlink_seconds(self.offset_seconds + at_seconds, size_bytes)


class ReplayVerifier:
    """Implements :class:`runtime.synera.session.Verifier` over a graph, a link trace and a cloud profile."""

    def __init__(
        self, walk: _Walk, meta: GraphMeta, clock: SimulatedClock, radio: Radio, cloud: CloudProfile, rng: np.random.Generator
    ) -> None:
        self._walk, self._meta, self._clock, self._radio, self._cloud, self._rng = walk, meta, clock, radio, cloud, rng
        self._seen = self._computed = self._seq = 0
        self._opened_at = self._probe = 0.0
        self._pending: tuple[float, Verdict] | None = None

    def open(self, prompt_tokens: int) -> None:
        """Start a session; its answer arrives a round trip later."""
        self._seen = self._computed = self._seq = 0
        self._pending = None
        self._opened_at = self._clock.now()
        up = self._radio.uplink_seconds(self._opened_at, GRPC_OVERHEAD_BYTES + open_request_bytes())
        self._probe = up + self._radio.downlink_seconds(self._opened_at + up, GRPC_OVERHEAD_BYTES + open_response_bytes())

    def probe_seconds(self) -> float | None:
        """Round trip of `open`, once its answer is there."""
        return self._probe if self._clock.now() >= self._opened_at + self._probe else None

    def submit(self, history: Sequence[int], draft: Sequence[int]) -> None:
        """Work out the verdict and when it arrives."""
        sent = max(self._clock.now(), self._opened_at + self._probe)
        accepted, next_token = self._judge(len(history), draft)
        self._seq += 1
        request = GRPC_OVERHEAD_BYTES + verify_request_bytes(self._seen, history[self._seen :], draft, self._seq)
        tokens = len(history) - self._computed + len(draft)
        queue, compute = self._cloud.queue_seconds(float(self._rng.random())), self._cloud.forward_seconds(tokens)
        up = self._radio.uplink_seconds(sent, request)
        response = GRPC_OVERHEAD_BYTES + verify_response_bytes(accepted, next_token, tokens, load=1)
        down = self._radio.downlink_seconds(sent + up + queue + compute, response)
        verdict = Verdict(
            accepted=accepted,
            next_token=next_token,
            queue_seconds=queue,
            compute_seconds=compute,
            cloud_seconds=compute,
            network_seconds=up + down,
            cloud_tokens=tokens,
            uplink_bytes=request,
            downlink_bytes=response,
            load=1.0,
        )
        self._seen, self._computed = len(history) + accepted + 1, len(history) + accepted
        self._pending = sent + up + queue + compute + down, verdict

    def result(self) -> Verdict:
        """Let the time pass until the verdict arrives."""
        if self._pending is None:
            raise RuntimeError("no chunk was submitted")
        arrives, verdict = self._pending
        self._pending = None
        self._clock.charge(0.0, since=arrives)
        return verdict

    def close(self) -> None:
        """Nothing to release."""

    def _judge(self, history_tokens: int, draft: Sequence[int]) -> tuple[int, int]:
        """Greedy acceptance along the graph: the longest prefix equal to the LLM's choice, and the LLM's next token."""
        graph, node = self._walk.graph, self._walk.nodes[history_tokens - self._walk.prompt_tokens]
        for place, token in enumerate(draft):
            wanted = int(graph.llm_token[node])
            if token != wanted:
                return place, wanted
            node = self._walk.follow(node, token)
        # A terminal node ends the answer: the session cuts what the LLM would say after it.
        return len(draft), int(graph.llm_token[node]) if np.isnan(graph.score[node]) else next(iter(self._meta.eos_ids), 0)


class ReplayEpisode:
    """One replayed answer: a session over a graph, and its score."""

    def __init__(
        self,
        graphs: GraphSet,
        index: int,
        radio: Radio,
        device: DeviceProfile,
        cloud: CloudProfile,
        lens: Lens,
        rng: np.random.Generator,
    ) -> None:
        meta, graph = graphs.meta, graphs[index]
        self._walk = _Walk(graph)
        clock = SimulatedClock()
        drafter = ReplayDrafter(self._walk, meta.exit_layers, clock, device)
        verifier = ReplayVerifier(self._walk, meta, clock, radio, cloud, rng)
        limits = Limits(meta.max_new_tokens, frozenset(meta.eos_ids), meta.context)
        self.session = Session(drafter, verifier, clock, device, lens, limits)
        self.prompt_tokens = tuple(int(t) for t in graph.prompt_tokens)
        self.prompt, self.kind = graph.prompt, graph.kind

    def score(self) -> float:
        """Task score of the finished answer."""
        return float(self._walk.graph.score[self._walk.nodes[-1]])
