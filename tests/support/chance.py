"""Sampled answers of tiny models by the real session, drafter and acceptance, fast: what a model says of a prefix is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from runtime.clock import Clock, SimulatedClock
from runtime.model.decoder import Decoder
from runtime.model.distributions import accept_sampled, truncated
from runtime.model.exits import ExitWalk
from runtime.model.loading import load_decoder
from runtime.sampling import Draws, Proposal, SampledDraft, Sampling
from runtime.session import Limits
from runtime.synera.chunk import DecisionPoint, Lost, Verdict
from runtime.synera.drafter import ModelDrafter, Reading
from runtime.synera.knobs import Knobs
from runtime.synera.lens import Lens
from runtime.synera.session import Session
from tests.support.checkpoints import LayerCosts, save_checkpoint
from tests.support.language import Energy

VOCAB, EOS, LENGTH = 8, 2, 3
"""Of the tiny models; an answer has at most so many tokens."""
Prefix = tuple[int, ...]


@dataclass(frozen=True)
class Controller:
    """Has every chunk checked; what else it chooses may depend on all that a device sees."""

    first: Knobs
    choose: Callable[[DecisionPoint], Knobs] | None = None

    def decide(self, point: DecisionPoint) -> Knobs:
        return self.choose(point) if self.choose else self.first


def checked(**knobs: Any) -> Knobs:
    return Knobs(confidence_threshold=1.0, offload_budget=1.0, **knobs)


class Pair:
    """An SLM that is the first two layers of its LLM, and what they said."""

    def __init__(self, folder: Path) -> None:
        small: dict[str, Any] = {"vocab_size": VOCAB, "eos_token_id": EOS, "tie_word_embeddings": True}
        save_checkpoint(folder / "llm", "Llama", **small)
        save_checkpoint(folder / "slm", "Llama", exits=[1, 2], num_hidden_layers=2, **small)
        self.llm, self.slm = load_decoder(folder / "llm"), load_decoder(folder / "slm")
        self.asked: dict[object, tuple[ExitWalk, Reading, Proposal | None]] = {}
        self.target, self.targets = cache(self._target), cache(self._targets)

    def _target(self, prefix: Prefix, sampling: Sampling) -> Tensor:
        """p after a prefix, [VOCAB]."""
        hidden = self.llm.run(self.llm.embed(torch.tensor(prefix)), torch.arange(len(prefix)), self.llm.new_cache())
        return truncated(self.llm.logits(hidden[-1:]), sampling)[0]

    def _targets(self, history: Prefix, draft: Prefix, sampling: Sampling) -> Tensor:
        """p at each place of a draft and behind it, [n + 1, VOCAB]."""
        return torch.stack([self.target((*history, *draft[:i]), sampling) for i in range(len(draft) + 1)])

    def exact(self, prompt: Prefix, sampling: Sampling) -> dict[Prefix, float]:
        """Probability of each answer that the LLM itself can sample."""

        def follow(answer: Prefix, probability: float) -> Iterator[tuple[Prefix, float]]:
            if len(answer) == LENGTH or answer[-1:] == (EOS,):
                yield answer, probability
                return
            for token, share in enumerate(self.target((*prompt, *answer), sampling).tolist()):
                if share:
                    yield from follow((*answer, token), probability * share)

        return dict(follow((), 1.0))


class BlindLens(Lens):
    """Sees nothing, at once."""

    def sketch(self, hidden: NDArray[np.float32], exit_index: int) -> NDArray[np.float32]:
        return NOTHING


LENS = BlindLens(**vars(Lens.neutral(2, 32)))
NOTHING = np.zeros(16, np.float32)


class KeptDrafter(ModelDrafter):
    """The device's drafter, which asks the model once for each prefix and exit."""

    def __init__(self, slm: Decoder, clock: Clock, asked: dict[object, tuple[ExitWalk, Reading, Proposal | None]]) -> None:
        super().__init__(slm, LENS, clock, LayerCosts())
        self._asked = asked

    def _ask(self, exit_index: int, exit_margin: float) -> tuple[ExitWalk, Reading, Proposal | None]:
        assert self._sampling is not None
        knobs = (self._sampling.temperature, self._sampling.top_p, self._sampling.top_k)
        key = (tuple(self._prefix), exit_index, exit_margin, knobs)
        if key not in self._asked:
            self._asked[key] = super()._ask(exit_index, exit_margin)
        return self._asked[key]


class KeptVerifier:
    """A cloud that judges as the engine does; its verdict comes when the device has nothing more to do."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._verdict: Verdict | None = None

    def open(self, prompt_tokens: int) -> None:
        pass

    def probe_seconds(self) -> float | None:
        return None

    def shut(self) -> bool:
        return False

    def submit(self, history: Sequence[int], draft: Sequence[int], sampled: SampledDraft | None) -> None:
        assert sampled is not None
        sampled.require_fit(draft)
        plain = Sampling(sampled.sampling.temperature, sampled.sampling.top_p, sampled.sampling.top_k)
        targets = self._pair.targets(tuple(history), tuple(draft), plain)
        said = accept_sampled(draft, sampled.proposals, targets, Draws(sampled.sampling.seed, history))
        self._verdict = Verdict(said.accepted, said.next_token, 0, 0, 0, 0, len(draft) + 1, 0, 0, 0.0)

    def ready(self) -> bool:
        return False

    def result(self) -> Verdict | Lost:
        assert self._verdict is not None
        return self._verdict

    def known_at(self) -> float:
        return 0.0

    def close(self) -> None:
        pass


def answers(pair: Pair, prompt: Prefix, sampling: Sampling, controller: Controller, count: int) -> Counter[Prefix]:
    """How often each answer came; their seeds are made of the one of `sampling`."""
    clock, found = SimulatedClock(), Counter[Prefix]()
    drafter, verifier = KeptDrafter(pair.slm, clock, pair.asked), KeptVerifier(pair)
    session = Session(drafter, verifier, clock, Energy(), LENS, Limits(LENGTH, frozenset({EOS}), 96))
    for number in range(count):
        session._sampling = sampling.of_answer(number)
        point: DecisionPoint | None = session.begin(prompt, controller.first)
        while point is not None:
            point = session.advance(controller.decide(point)).point
        found[session.answer] += 1
    return found


class ChiSquare:
    """Counts held against probabilities; cells of which fewer than five are expected are taken together."""

    def __init__(self, counts: Mapping[Prefix, int], exact: Mapping[Prefix, float]) -> None:
        assert set(counts) <= set(exact), "an answer that the LLM cannot give"
        self.draws = sum(counts.values())
        expected = np.array([self.draws * p for p in exact.values()])
        seen = np.array([counts.get(answer, 0) for answer in exact])
        rare = expected < 5
        self.expected = np.append(expected[~rare], expected[rare].sum())
        self.seen = np.append(seen[~rare], seen[rare].sum())
        if not self.expected[-1]:
            self.expected, self.seen = self.expected[:-1], self.seen[:-1]

    @property
    def probability(self) -> float:
        """Of counts as far off as these or farther, where all is right."""
        return float(stats.chisquare(self.seen, self.expected, sum_check=False).pvalue)

    def detectable(self, level: float, power: float) -> float:
        """Least total variation that is certain to be found with that power, by the noncentral chi-square.

        A deviation d of probabilities e has the noncentrality N sum(d^2 / e) >= N (2 TV)^2, by Cauchy and Schwarz.
        """
        freedom = len(self.expected) - 1
        limit = stats.chi2.isf(level, freedom)
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            found = stats.ncx2.sf(limit, freedom, self.draws * (2 * middle) ** 2)
            low, high = (low, middle) if found >= power else (middle, high)
        return high
