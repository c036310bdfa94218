"""The replayed world: a drafter and a verifier that walk a token graph on a simulated clock, and the environment over it.

What does not live here: the session that they serve (runtime/synera/session.py) and the live world (live.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.clock import SimulatedClock
from runtime.errors import UncoveredError
from runtime.model.exits import ExitLedger, Segment
from runtime.rules import accept_greedy
from runtime.session import Limits
from runtime.synera.chunk import DraftToken, Verdict
from runtime.synera.held import HeldHistory
from runtime.synera.lens import Lens
from runtime.synera.session import Session
from runtime.wire.sizes import on_the_link, open_request_bytes, open_response_bytes, verify_response_bytes
from synera_env.base import Deployment, Episode, Start
from synera_env.radio import Radio
from synera_env.reward import Preference
from synera_env.synera.env import SyneraEnv
from synera_env.synera.schema import synera_schema
from traces import bundled
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

        def margin(segment: Segment, ask: bool) -> float:
            return float(graph.margin[node, segment.exit_index]) if ask else 0.0

        walk = self._ledger.walk(length, exit_index, exit_margin, margin)
        left = walk.exit_index
        self._clock.charge(self._profile.draft_seconds(walk.segments, walk.heads), since=began)
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


class ReplayVerifier:
    """Implements :class:`runtime.synera.session.Verifier` over a graph, a link trace and a cloud profile."""

    def __init__(
        self, walk: _Walk, meta: GraphMeta, clock: SimulatedClock, radio: Radio, cloud: CloudProfile, rng: np.random.Generator
    ) -> None:
        self._walk, self._meta, self._clock, self._radio, self._cloud, self._rng = walk, meta, clock, radio, cloud, rng
        self._held = HeldHistory()
        self._opened_at = self._probe = 0.0
        self._pending: tuple[float, Verdict] | None = None

    def open(self, prompt_tokens: int) -> None:
        """Start a session; its answer arrives a round trip later."""
        self._held = HeldHistory()
        self._pending = None
        self._opened_at = self._clock.now()
        up = self._radio.uplink_seconds(self._opened_at, on_the_link(open_request_bytes()))
        self._probe = up + self._radio.downlink_seconds(self._opened_at + up, on_the_link(open_response_bytes()))

    def probe_seconds(self) -> float | None:
        """Round trip of `open`, once its answer is there."""
        return self._probe if self._clock.now() >= self._opened_at + self._probe else None

    def submit(self, history: Sequence[int], draft: Sequence[int]) -> None:
        """Work out the verdict and when it arrives."""
        sent = max(self._clock.now(), self._opened_at + self._probe)
        check = self._held.request(history, draft)
        accepted, next_token = accept_greedy(draft, self._choices(len(history), draft))
        request, tokens = check.link_bytes, check.cloud_tokens
        response = on_the_link(verify_response_bytes(accepted, next_token, tokens, load=1))
        queue, compute = self._cloud.queue_seconds(float(self._rng.random())), self._cloud.forward_seconds(tokens)
        up = self._radio.uplink_seconds(sent, request)
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
        self._held.settled(history, draft, accepted, next_token)
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

    def _choices(self, history_tokens: int, draft: Sequence[int]) -> Iterator[int]:
        """What the LLM would say after the history and each beginning of the draft; read no further than asked."""
        graph, node = self._walk.graph, self._walk.nodes[history_tokens - self._walk.prompt_tokens]
        for token in draft:
            yield int(graph.llm_token[node])
            node = self._walk.follow(node, token)
        # A terminal node ends the answer: the session cuts what the LLM would say after it.
        yield int(graph.llm_token[node]) if np.isnan(graph.score[node]) else next(iter(self._meta.eos_ids), 0)


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


class SyneraReplayEnv(SyneraEnv):
    """`SyneraReplay-v0`: the environment over recorded token graphs, link traces and timing profiles.

    Deterministic by seed; needs no model. Actions, observations and reward: see
    :class:`synera_env.synera.env.SyneraEnv`.
    """

    def __init__(
        self,
        graphs: GraphSet | str | Path | None = None,
        links: Sequence[LinkTrace] | None = None,
        device: DeviceProfile | None = None,
        cloud: CloudProfile | None = None,
        preference: Preference | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Open the world.

        Args:
            graphs: graphs or their file; None takes the bundled training graphs.
            links: link traces; None takes the bundled training links.
            device: device profile; None takes the bundled phone.
            cloud: cloud profile; None takes the bundled GPU.
            preference: fixed weights; None samples them for each episode.
            render_mode: None or `ansi`.

        Raises:
            TraceError: a file is missing or damaged.
        """
        self.graphs = graphs if isinstance(graphs, GraphSet) else GraphSet.load(graphs or bundled.graphs("train"))
        self.lens = Lens.from_tensors(self.graphs.lens_tensors)
        self.device = device or DeviceProfile.load(bundled.profile("phone"))
        self.cloud = cloud or CloudProfile.load(bundled.profile("gpu"))
        schema = synera_schema(len(self.graphs.meta.exit_layers))
        super().__init__(schema, len(self.graphs), links or bundled.links("train"), preference, render_mode)

    def _begin(self, start: Start) -> Episode:
        return ReplayEpisode(self.graphs, start.prompt, start.radio, self.device, self.cloud, self.lens, start.rng)

    def deployment(self) -> Deployment:
        """See :class:`synera_env.base.DecisionEnv`: the SLM, its tokenizer, and the lens."""
        meta = self.graphs.meta
        fingerprints = {"slm": meta.slm_fingerprint, "tokenizer": meta.tokenizer_hash, "lens": self.lens.fingerprint}
        return Deployment(fingerprints, meta.max_new_tokens, self.lens.tensors())

    def provenance(self) -> dict[str, Any]:
        """See :class:`synera_env.base.DecisionEnv`."""
        return super().provenance() | {
            "split": self.graphs.meta.split,
            "device_profile": self.device.name,
            "cloud_profile": self.cloud.name,
            "llm_fingerprint": self.graphs.meta.llm_fingerprint,
        }
