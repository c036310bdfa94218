"""Lossless sampling, as far as it needs no model: the settings, the keyed draws, and what is said of where a draft came from.

What does not live here: a model's distributions and the acceptance by them (runtime/model/distributions.py), and greedy
decoding, which is no sampling: it is asked for by None.

Exactness. Every place of an answer is named by the tokens before it, its *prefix*, and has three uniforms of its own, one a
:class:`Purpose`, each a keyed hash of (seed, prefix, purpose). The draft token of a place is drawn with its TOKEN from the
device's q, judged with ACCEPT and, where refused, replaced with RECOVER; a bonus is drawn with TOKEN from the LLM's p. So
the guess of a bonus, drafted ahead, uses the number that the bonus will be drawn with (common random numbers): at temperature
1.5 the bundled pair then agrees in 93.6 % of the places, of at most 93.7 %, and in 93.5 % by independent numbers. This stays exact:

* A place that stands is settled once: as a draft token, by q, or as a bonus. Which of them, and by which q, is fixed by the
  tokens before it and by knobs that were chosen earlier, and nothing that was chosen by then had seen a uniform of this
  place: what was drafted in vain followed a refused token, and the token in its place is another one, so all that comes
  after it has another prefix. Given its prefix a token is then distributed as p: a draft token and its judgement by
  Leviathan et al., a bonus by the inverse of p's distribution function.
* So answers of which every chunk is checked are distributed as the LLM's own, whatever the controller does with exits,
  lengths and drafting ahead, and by whatever it sees. Keyed by seed, position and purpose alone they would not be: a
  controller that chooses the next exit by a draft that was then refused would choose q by the number drawn from it.
* And a token depends on nothing else: not on timing, nor on what was drafted in vain, nor on other devices.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from hashlib import blake2b
from itertools import accumulate
from typing import Self

from runtime.errors import SettingError
from runtime.settings import shown, whole, within

LARGEST_SEED = 2**64 - 1
MOST_IDS = 32
"""Most token ids of a proposal. Ours: what q leaves out can cost acceptance, never exactness. `synera bench sampling` measures it;
the bundled pair gains, up to 1 % at temperature 1.5, as the SLM's tail is heavier than the LLM's."""
TOTAL = 2**16
"""Sum of a proposal's weights: probabilities are multiples of 1 / TOTAL."""
_MOST_TOP_K = 2**24  # no vocabulary has more


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of an answer are drawn; None in its place is greedy decoding.

    A model's distribution is its softmax at `temperature`, of which the `top_k` likeliest tokens are kept, and of these,
    renormalised, the fewest likeliest whose probabilities reach `top_p`; what is left is renormalised. That is the order of
    transformers and vLLM. Of equally likely tokens the smaller id is kept first. SLM and LLM are cut alike.

    Raises:
        SettingError: a value is outside its range.
    """

    temperature: float = 1.0
    """0.01..100."""
    top_p: float = 1.0
    """Above 0, at most 1, which cuts nothing."""
    top_k: int = 0
    """0..2^24; 0 cuts nothing."""
    seed: int = 0
    """0..2^64 - 1; the same prompt, settings and seed give the same answer."""

    def __post_init__(self) -> None:
        if self.temperature == 0:
            raise SettingError("temperature=0 is greedy decoding; ask for it with no sampling at all (None)")
        within("temperature", self.temperature, 0.01, 100)
        within("top_p", self.top_p, 0, 1)
        if self.top_p == 0:
            raise SettingError("top_p=0 leaves no token; it must be above 0 and at most 1")
        whole("top_k", self.top_k, 0, _MOST_TOP_K)
        whole("seed", self.seed, 0, LARGEST_SEED)

    def of_answer(self, number: int) -> Self:
        """Return the settings of one answer of many, with a seed of its own: a hash of this seed and the answer's number.

        Args:
            number: which answer, 0..2^64 - 1.
        """
        digest = blake2b(struct.pack("<QQ", self.seed, number), digest_size=8, person=b"synera answer").digest()
        return replace(self, seed=int.from_bytes(digest, "little"))


class Purpose(Enum):
    """What a uniform of a place is for."""

    TOKEN = b"t"
    """The draft token, or the bonus."""
    ACCEPT = b"a"
    """Whether the draft token stands."""
    RECOVER = b"r"
    """The token in the place of one that does not."""


class Draws:
    """The uniforms of a place, by purpose: keyed BLAKE2b of the tokens before it, the same numbers on every machine."""

    def __init__(self, seed: int, prefix: Sequence[int]) -> None:
        """Stand after a prefix: prompt and answer so far, token ids below 2^32."""
        self._state = blake2b(_packed(prefix), key=struct.pack("<Q", seed), digest_size=8, person=b"synera draw")

    def after(self, tokens: Sequence[int]) -> Draws:
        """Return the draws of the place behind further tokens."""
        later = Draws.__new__(Draws)
        later._state = self._state.copy()
        later._state.update(_packed(tokens))
        return later

    def uniform(self, purpose: Purpose) -> float:
        """Return a multiple of 2^-53 in [0, 1)."""
        state = self._state.copy()
        state.update(purpose.value)  # one byte after four a token: no place's text is another's
        return (int.from_bytes(state.digest(), "little") >> 11) * 2.0**-53


def _packed(tokens: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(tokens)}I", *tokens)


@dataclass(frozen=True, slots=True)
class Proposal:
    """The distribution q that a draft token was drawn from: exactly these ids with exactly these weights, and nothing else.

    The device rounds and cuts its distribution first and then draws from what is left, so the rest has no mass and
    acceptance is by the very q that was drawn from.

    Raises:
        SettingError: it is no such distribution.
    """

    ids: tuple[int, ...]
    """1..MOST_IDS token ids, each once; draws go through them in this order, the likeliest first."""
    weights: tuple[int, ...]
    """Of each id, at least 1; the sum is TOTAL."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.ids) <= MOST_IDS:
            raise SettingError(f"a proposal of {len(self.ids)} token ids must have 1..{MOST_IDS}")
        if len(self.weights) != len(self.ids) or min(self.weights) < 1 or sum(self.weights) != TOTAL:
            raise SettingError(
                f"a proposal's weights {shown(self.weights)} must be {len(self.ids)}, one an id, each at least 1, in all {TOTAL}"
            )
        if len(set(self.ids)) != len(self.ids):
            raise SettingError(f"a proposal's token ids {shown(self.ids)} must differ")

    @classmethod
    def rounded(cls, ids: Sequence[int], probabilities: Sequence[float]) -> Self:
        """Round a distribution down to multiples of 1 / TOTAL; the likeliest id takes what is left, ids without weight go.

        Args:
            ids: token ids, each once, at most MOST_IDS.
            probabilities: of each, not negative; renormalised.
        """
        mass = math.fsum(probabilities)
        weights = [int(TOTAL * (p / mass)) for p in probabilities]
        likeliest = max(range(len(weights)), key=probabilities.__getitem__)
        weights[likeliest] += TOTAL - sum(weights)
        kept = sorted((-weight, token) for token, weight in zip(ids, weights, strict=True) if weight)
        return cls(tuple(token for _, token in kept), tuple(-weight for weight, _ in kept))

    def draw(self, uniform: float) -> int:
        """Return the token at a quantile in [0, 1); id i has exactly the probability weights[i] / TOTAL."""
        place = int(uniform * TOTAL)
        return next(token for token, end in zip(self.ids, accumulate(self.weights), strict=True) if place < end)

    def probability(self, token: int) -> float:
        """Return q of a token; 0 of one that is not in it."""
        return self.weights[self.ids.index(token)] / TOTAL if token in self.ids else 0.0

    @property
    def probabilities(self) -> list[float]:
        """Of each id."""
        return [weight / TOTAL for weight in self.weights]


@dataclass(frozen=True, slots=True)
class SampledDraft:
    """How a draft was sampled, as the cloud must know it to judge it."""

    sampling: Sampling
    proposals: tuple[Proposal, ...]
    """Where each draft token was drawn from."""

    def require_fit(self, draft: Sequence[int]) -> None:
        """Do nothing for the proposals of a draft.

        Raises:
            SettingError: there are more or fewer, or a draft token cannot have come from its own.
        """
        if len(self.proposals) != len(draft):
            raise SettingError(f"{len(self.proposals)} proposals for a draft of {len(draft)} tokens; each token has one")
        for place, (token, proposal) in enumerate(zip(draft, self.proposals, strict=True)):
            if token not in proposal.ids:
                raise SettingError(f"draft token {place}, {token}, has no weight in its own proposal")
