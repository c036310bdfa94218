"""The live drafter: the SLM with its cache, leaving layers early and completing them exactly.

What does not live here: when to draft or offload (session.py) and the bookkeeping of pending layers (exits.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from runtime.clock import Clock
from runtime.errors import CheckpointError
from runtime.model.decoder import Decoder
from runtime.model.exits import ExitLedger, Segment
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
    probabilities = logits.float().softmax(-1)
    top, ids = probabilities.topk(2, -1)
    entropy = torch.special.entr(probabilities).sum(-1)
    return Prediction(ids[:, 0], top[:, 0], top[:, 0] - top[:, 1], entropy, ids[:, 1], probabilities)


class ModelDrafter:
    """Implements :class:`runtime.synera.session.Drafter` over a decoder; owns its cache."""

    def __init__(self, decoder: Decoder, lens: Lens, clock: Clock, costs: DraftCosts) -> None:
        exits = decoder.config.exit_layers
        if lens.mean.shape != (len(exits), decoder.config.hidden):
            raise CheckpointError(
                f"the lens is for {lens.mean.shape[0]} exits of hidden size {lens.mean.shape[1]}, the SLM has {len(exits)} of {decoder.config.hidden}; record the traces with this SLM"
            )
        self._decoder, self._lens, self._clock, self._costs = decoder, lens, clock, costs
        self._prefix: list[int] = []
        self._reset()

    def _reset(self) -> None:
        exits = self._decoder.config.exit_layers
        self._kv = self._decoder.new_cache(probe_layer=exits[0] - 1)
        self._ledger = ExitLedger(exits)
        # Hidden states kept at every exit but the last, for the positions that deeper layers may still have to run.
        self._hidden = [torch.empty(64, self._decoder.config.hidden) for _ in exits[:-1]]

    def begin(self, prompt: Sequence[int]) -> None:
        """Start from a prompt; nothing is computed yet."""
        self._prefix = list(prompt)
        self._reset()

    def push(self, token: int) -> None:
        """Append a token that the cloud chose."""
        self._prefix.append(token)

    def rollback(self, length: int) -> None:
        """Keep the first `length` tokens of the prefix."""
        del self._prefix[length:]
        self._ledger.truncate(length)
        self._kv.truncate(length)

    def next(self, exit_index: int, exit_margin: float) -> DraftToken:
        """Draft one token: run to each exit in turn, leave at the first whose margin reaches `exit_margin`."""
        self._kv.truncate(len(self._prefix) - 1)
        began, states, guesses = self._clock.now(), list[Tensor](), list[Prediction]()
        attention = np.zeros(0, np.float32)

        def run(segment: Segment, ask: bool) -> float:
            nonlocal attention
            states.append(self._run(segment)[-1:])
            if segment.exit_index == 0 and self._kv.probed is not None:
                attention = self._kv.probed[-1].numpy()
            if not ask:
                return 0.0
            guesses.append(predict(self._decoder.logits(states[-1])))
            return float(guesses[-1].margin)

        walk = self._ledger.walk(len(self._prefix), exit_index, exit_margin, run)
        self._clock.charge(self._costs.draft_seconds(walk.segments, walk.heads), since=began)
        guess, state = guesses[-1], states[-1]
        token = int(guess.token)
        self._prefix.append(token)
        return DraftToken(
            token=token,
            exit_index=walk.exit_index,
            confidence=float(guess.confidence),
            margin=float(guess.margin),
            entropy=float(guess.entropy),
            runner_up=int(guess.runner_up),
            sketch=self._lens.sketch(state[-1].numpy(), walk.exit_index),
            attention=attention,
        )

    def _run(self, segment: Segment) -> Tensor:
        """Run one segment; keep and return the hidden states [positions, hidden] at the exit that it reaches."""
        positions = torch.arange(segment.first, segment.stop)
        if segment.exit_index == 0:
            entering = self._decoder.embed(torch.tensor(self._prefix[segment.first : segment.stop]))
        else:
            entering = self._hidden[segment.exit_index - 1][segment.first : segment.stop]
        leaving = self._decoder.run(entering, positions, self._kv, segment.start_layer, segment.stop_layer)
        if segment.exit_index < len(self._hidden):
            kept = self._hidden[segment.exit_index]
            if segment.stop > len(kept):
                grown = kept.new_empty(max(segment.stop, 2 * len(kept)), kept.shape[1])
                grown[: segment.first] = kept[: segment.first]
                kept = self._hidden[segment.exit_index] = grown
            kept[segment.first : segment.stop] = leaving
        return leaving
