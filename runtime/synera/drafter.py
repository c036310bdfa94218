"""The live drafter: the SLM with its cache, leaving layers early and completing them exactly.

What does not live here: when to draft or offload (session.py) and the bookkeeping of pending layers (runtime/model/exits.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.clock import Clock
from runtime.model.decoder import Decoder
from runtime.model.distributions import propose
from runtime.model.exits import ExitLedger, ExitWalk, Segment
from runtime.sampling import Draws, Proposal, Purpose, Sampling
from runtime.synera.chunk import DraftToken
from runtime.synera.lens import Lens


class DraftCosts(Protocol):
    """The part of a device profile that a drafter needs."""

    def draft_seconds(self, segments: Sequence[Segment], heads: int) -> float:
        """Time to run layer segments and `heads` output heads."""
        ...


class Prediction(NamedTuple):
    """What the shared head says of rows of hidden states; arrays are [rows]."""

    token: Tensor
    confidence: Tensor
    margin: Tensor
    entropy: Tensor
    runner_up: Tensor
    probabilities: Tensor  # [rows, vocab]


def predict(logits: Tensor) -> Prediction:
    """Greedy choice and confidence figures of logits [rows, vocab], in float32."""
    probabilities, best, ids, entropy = _figures(logits)
    (first, second), (token, runner_up) = best.unbind(-1), ids.unbind(-1)
    return Prediction(token, first, first - second, entropy, runner_up, probabilities)


def _figures(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probabilities [rows, vocab], the two largest and their ids [rows, 2], and the entropy [rows]."""
    probabilities = logits.float().softmax(-1)
    best, ids = probabilities.topk(2, -1)
    return probabilities, best, ids, torch.special.entr(probabilities).sum(-1)


class Reading(NamedTuple):
    """A prediction of one row, on the CPU."""

    token: int
    confidence: float
    margin: float
    entropy: float
    runner_up: int
    hidden: NDArray[np.float32]  # [hidden]


def read(logits: Tensor, hidden: Tensor) -> Reading:
    """Predict from logits [1, vocab] and bring it over with the row's hidden state, in one transfer."""
    _, best, ids, entropy = _figures(logits)
    # Ids are below 2**24, hence exact in float32.
    row = torch.cat([ids[0].float(), best[0], entropy, hidden.float()]).cpu().numpy()
    return Reading(int(row[0]), float(row[2]), float(row[2] - row[3]), float(row[4]), int(row[1]), row[5:])


class ModelDrafter:
    """Implements :class:`runtime.synera.session.Drafter` over a decoder; owns its cache."""

    def __init__(self, decoder: Decoder, lens: Lens, clock: Clock, costs: DraftCosts) -> None:
        lens.require_fit(len(decoder.config.exit_layers), decoder.config.hidden)
        self._decoder, self._lens, self._clock, self._costs = decoder, lens, clock, costs
        self._prefix: list[int] = []
        self._sampling: Sampling | None = None
        self._reset()

    def _reset(self) -> None:
        exits = self._decoder.config.exit_layers
        self._kv = self._decoder.new_cache()
        self._ledger = ExitLedger(exits)
        # Hidden states kept at every exit but the last, for the positions that deeper layers may still have to run.
        empty = torch.empty(64, self._decoder.config.hidden, dtype=self._decoder.dtype, device=self._decoder.device)
        self._hidden = [torch.empty_like(empty) for _ in exits[:-1]]

    def begin(self, prompt: Sequence[int], sampling: Sampling | None = None) -> None:
        """Start from a prompt; nothing is computed yet."""
        self._prefix, self._sampling = list(prompt), sampling
        self._reset()

    def push(self, token: int) -> None:
        """Append a token that stands."""
        self._prefix.append(token)

    push_guessed = push

    def next_guessed(self, exit_index: int, exit_margin: float) -> DraftToken:
        """As `next`: a model knows its next token after any prefix."""
        return self.next(exit_index, exit_margin)

    def rollback(self, length: int) -> None:
        """Keep the first `length` tokens of the prefix."""
        del self._prefix[length:]
        self._ledger.truncate(length)
        self._kv.truncate(length)

    @torch.inference_mode()
    def next(self, exit_index: int, exit_margin: float) -> DraftToken:
        """Draft one token: run to each exit in turn, leave at the first whose margin reaches `exit_margin`."""
        walk, said, proposal = self._ask(exit_index, exit_margin)
        token = said.token
        if proposal is not None and self._sampling is not None:
            token = proposal.draw(Draws(self._sampling.seed, self._prefix).uniform(Purpose.TOKEN))
        self._prefix.append(token)
        return DraftToken(
            token=token,
            exit_index=walk.exit_index,
            confidence=said.confidence,
            margin=said.margin,
            entropy=said.entropy,
            runner_up=said.runner_up,
            sketch=self._lens.sketch(said.hidden, walk.exit_index),
            proposal=proposal,
        )

    def _ask(self, exit_index: int, exit_margin: float) -> tuple[ExitWalk, Reading, Proposal | None]:
        """What the SLM says after the prefix, whatever is then drawn from it; charged."""
        self._kv.truncate(len(self._prefix) - 1)
        began, readings, waiting, logits = self._clock.now(), list[Reading](), list[Segment](), list[Tensor]()

        def run(segment: Segment, ask: bool) -> float:
            if waiting and waiting[-1].first != segment.first:  # the deeper one runs over more positions
                self._run(waiting)
                waiting.clear()
            waiting.append(segment)
            if not ask:
                return 0.0
            state = self._run(waiting)
            waiting.clear()
            logits.append(self._decoder.logits(state[-1:]))
            readings.append(read(logits[-1], state[-1]))
            return readings[-1].margin

        walk = self._ledger.walk(len(self._prefix), exit_index, exit_margin, run)
        proposal = None if self._sampling is None else propose(logits[-1], self._sampling)
        self._clock.charge(self._costs.draft_seconds(walk.segments, walk.heads), since=began)
        return walk, readings[-1], proposal

    def _run(self, segments: Sequence[Segment]) -> Tensor:
        """Run segments of the same positions in one go; keep and return the hidden states [positions, hidden] at the end.

        At the exits between they need not be kept: these positions have gone deeper.
        """
        shallowest, deepest = segments[0], segments[-1]
        first, stop, reached = deepest.first, deepest.stop, deepest.exit_index
        if shallowest.exit_index == 0:
            entering = self._decoder.embed(torch.tensor(self._prefix[first:stop]))
        else:
            entering = self._hidden[shallowest.exit_index - 1][first:stop]
        positions = torch.arange(first, stop)
        leaving = self._decoder.run(entering, positions, self._kv, shallowest.start_layer, deepest.stop_layer)
        if reached < len(self._hidden):
            kept = self._hidden[reached]
            if stop > len(kept):
                grown = kept.new_empty(max(stop, 2 * len(kept)), kept.shape[1])
                grown[: len(kept)] = kept
                kept = self._hidden[reached] = grown
            kept[first:stop] = leaving
        return leaving
