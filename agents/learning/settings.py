"""Hyperparameters: what each agent has of its own, what each may be, and where a search looks for better ones.

What does not live here: their values (agents/tuned/), how files are read (settings_file.py), and what all agents share (recipe.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

from runtime.settings import above, one_of, whole, within

LOSSES = ("policy-gradient", "cross-entropy", "regression")
FUTURES = ("policy", "clairvoyant")
"""Of counterfactual training."""


@dataclass(frozen=True)
class Real:
    """A number in low..high."""

    low: float
    high: float
    search: tuple[float, float] | None = None
    """Where a search looks; None: it leaves it alone."""
    log: bool = False
    """The search goes by its logarithm."""
    beyond: bool = False
    """`low` itself is not allowed."""

    def check(self, name: str, value: Any) -> None:
        """Do nothing for a value that is allowed.

        Raises:
            SettingError: it is not; names the range.
        """
        within(name, value, self.low, self.high)
        if self.beyond:
            above(name, value, self.low)


@dataclass(frozen=True)
class Whole:
    """An integer in low..high."""

    low: int
    high: int
    search: tuple[int, ...] = ()
    """What a search tries; empty: it leaves it alone."""

    def check(self, name: str, value: Any) -> None:
        """See :meth:`Real.check`."""
        whole(name, value, self.low, self.high)


@dataclass(frozen=True)
class Word:
    """One of some words."""

    allowed: tuple[str, ...]

    def check(self, name: str, value: Any) -> None:
        """See :meth:`Real.check`."""
        one_of(name, value, self.allowed)


Allowed = Real | Whole | Word


@dataclass(frozen=True)
class Settings:
    """What an agent has of its own; fields are annotated with what they may be."""

    learning_rate: Annotated[float, Real(0.0, 1.0, search=(1e-4, 5e-3), log=True, beyond=True)]
    """Of the optimiser, at the start."""
    hidden: Annotated[int, Whole(1, 4096, search=(32, 64, 128))]
    """Width of the two hidden layers, of each network."""

    def __post_init__(self) -> None:
        for name, allowed in self.allowed().items():
            allowed.check(name, getattr(self, name))

    @classmethod
    def allowed(cls) -> dict[str, Allowed]:
        """What each field may be, by name, in order."""
        hints = get_type_hints(cls, include_extras=True)
        return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


@dataclass(frozen=True)
class OnPolicy(Settings):
    """Of agents that learn from what the policy just did; the rate falls linearly to a tenth."""

    rollout: Annotated[int, Whole(1, 1_000_000, search=(32, 64, 128, 256))]
    """Steps of each environment between updates."""
    gae_lambda: Annotated[float, Real(0.0, 1.0, search=(0.8, 1.0))]
    """Of the advantage estimate."""
    entropy: Annotated[float, Real(0.0, 10.0, search=(1e-5, 0.03), log=True)]
    """Weight of the entropy bonus."""


@dataclass(frozen=True)
class Either(OnPolicy):
    """Those of them that act in either space."""

    actions: Annotated[str, Word(("box", "choices"))]
    """`box`: sets each knob; `choices`: takes one of the schema's settings."""


@dataclass(frozen=True)
class Proximal:
    """What PPO adds, whatever it acts in."""

    minibatch: Annotated[int, Whole(2, 1_000_000, search=(256, 1024, 4096))]
    """Steps of one gradient; all those of a rollout of all environments, where they are fewer."""
    epochs: Annotated[int, Whole(1, 1000, search=(3, 6, 10))]
    """Passes over a rollout."""


@dataclass(frozen=True)
class PPOSettings(Proximal, Either):
    """Of PPO."""


@dataclass(frozen=True)
class MaskablePPOSettings(Proximal, OnPolicy):
    """Of PPO that never takes a choice that cannot be done."""


@dataclass(frozen=True)
class RecurrentPPOSettings(PPOSettings):
    """Of PPO with a memory."""

    memory: Annotated[int, Whole(1, 4096, search=(32, 64))]
    """Width of the LSTM that the policy has, and of the one that the critic has."""


@dataclass(frozen=True)
class A2CSettings(Either):
    """Of A2C."""


@dataclass(frozen=True)
class OffPolicy(Settings):
    """Of agents that learn from what was ever done."""

    buffer: Annotated[int, Whole(1_000, 10_000_000)]
    """Steps that are remembered."""
    learning_starts: Annotated[int, Whole(1, 1_000_000)]
    """Steps at random before anything is learned."""
    batch: Annotated[int, Whole(2, 1_000_000, search=(256, 1024, 2048))]
    """Steps of one gradient."""
    train_every: Annotated[int, Whole(1, 100_000)]
    """Steps of each environment between updates."""
    gradient_steps: Annotated[int, Whole(1, 100_000, search=(8, 16, 32))]
    """Gradients of one update."""
    tau: Annotated[float, Real(0.0, 1.0, search=(0.002, 0.05), log=True, beyond=True)]
    """How fast target networks follow, a gradient."""
    gamma: Annotated[float, Real(0.0, 1.0)]
    """Discount; an answer is a short episode, so 1 suits where it is stable."""
    n_steps: Annotated[int, Whole(1, 1000, search=(1, 3, 8))]
    """Steps whose rewards a target sums before it asks a critic; more bring the quality, paid at an answer's end, sooner to where it was
    decided, but by what was done then, not by what the policy would do now."""


@dataclass(frozen=True)
class DQNSettings(OffPolicy):
    """Of DQN."""

    exploration: Annotated[float, Real(0.0, 1.0, search=(0.05, 0.5))]
    """Share of the training over which random choices become fewer."""
    random_choices: Annotated[float, Real(0.0, 1.0, search=(0.01, 0.1))]
    """Their share after that."""


@dataclass(frozen=True)
class TD3Settings(OffPolicy):
    """Of TD3."""

    noise: Annotated[float, Real(0.0, 2.0, search=(0.05, 0.5))]
    """Deviation of what is added to actions to explore; they are in -1..1."""


@dataclass(frozen=True)
class SACSettings(OffPolicy):
    """Of SAC; the weight of entropy adapts itself."""

    temperature: Annotated[float, Real(0.0, 10.0, search=(0.003, 0.3), log=True, beyond=True)]
    """Weight of entropy, to begin with."""


@dataclass(frozen=True)
class TQCSettings(SACSettings):
    """Of TQC."""

    quantiles: Annotated[int, Whole(2, 200)]
    """Of each critic."""
    dropped: Annotated[int, Whole(0, 100, search=(0, 2, 5))]
    """Highest quantiles of each critic that a target leaves out."""


@dataclass(frozen=True)
class DiscreteSACSettings(SACSettings):
    """Of SAC over choices."""

    target_entropy: Annotated[float, Real(0.0, 1.0, search=(0.05, 0.6))]
    """Share of the largest entropy that the temperature holds the policy at."""


@dataclass(frozen=True)
class CounterfactualSettings(Settings):
    """Of all-action gradients over token graphs; the rate falls to a thirtieth along a cosine."""

    answers: Annotated[int, Whole(1, 4096, search=(16, 32, 64))]
    """In a batch, each of a prompt in a scenario of its own."""
    epochs: Annotated[int, Whole(1, 100, search=(2, 4, 8))]
    """Most steps up the surrogate of a batch."""
    entropy: Annotated[float, Real(0.0, 10.0, search=(1e-4, 0.01), log=True)]
    """Weight of each nat of a decision; falls to nothing."""
    weight_decay: Annotated[float, Real(0.0, 100.0, search=(0.1, 5.0), log=True)]
    """Of AdamW, by the learning rate: what keeps a few hundred prompts from being learned by heart."""
    imitation: Annotated[int, Whole(0, 100_000)]
    """Steps in which the best fixed rule of the reduced model is imitated, to begin with."""
    load_spread: Annotated[float, Real(1.0, 100.0)]
    """The cloud's waits are drawn up to so many times those of its profile, or divided by that."""
    loss: Annotated[str, Word(LOSSES)]
    """What is climbed: `policy-gradient`, or one of cost-sensitive decisions, `cross-entropy` or `regression`
    (agents/counterfactual/learning.py)."""
    future: Annotated[str, Word(FUTURES)]
    """Who goes on after an action whose gain is worked out: the `policy`, or the `clairvoyant`, who knows all outcomes."""
    explore_every: Annotated[int, Whole(0, 1_000_000)]
    """Where graphs grow: batches after which the policy explores what it would do next, first before any; 0 is never."""
    explore_answers: Annotated[int, Whole(1, 65_536)]
    """Of one exploration."""
    explore_random: Annotated[float, Real(0.0, 1.0)]
    """Share of its actions that are any of all; the others are drawn as the policy weighs them."""
