"""How counterfactual training is done."""

from __future__ import annotations

from dataclasses import dataclass

from agents.evaluation import MOST_ANSWERS
from runtime.settings import above, one_of, whole, within

LOSSES = ("policy-gradient", "cross-entropy", "regression")
FUTURES = ("policy", "clairvoyant")
_COUNTS = {
    "steps": (1, 1_000_000),
    "answers": (1, 4096),
    "epochs": (1, 100),
    "hidden": (1, 4096),
    "imitation": (0, 100_000),
    "validation_answers": (1, MOST_ANSWERS),
    "validate_every": (1, 1_000_000),
    "seed": (0, 2**32 - 1),
}


@dataclass(frozen=True)
class CounterfactualConfig:
    """How a policy is trained by all-action gradients; the defaults took two to three minutes of a shared core."""

    steps: int = 400
    """Batches."""
    answers: int = 32
    """In a batch, each of a prompt in a scenario of its own."""
    epochs: int = 4
    """Most steps up the surrogate of a batch."""
    learning_rate: float = 3e-3
    """Falls to a thirtieth along a cosine."""
    entropy: float = 0.002
    """Weight of each nat of a decision; falls to nothing."""
    weight_decay: float = 1.5
    """Of AdamW, by the learning rate: what keeps a few hundred prompts from being learned by heart."""
    hidden: int = 64
    """Width of the two hidden layers."""
    imitation: int = 200
    """Steps in which the best fixed rule of the reduced model is imitated, to begin with."""
    preference: str = "default"
    """`default`: the default weights in every answer; `sampled`: drawn for each, so one policy serves all."""
    load_spread: float = 1.0
    """The cloud's waits are drawn up to so many times those of its profile, or divided by that; 1..100."""
    validation_answers: int = 64
    """Answers of each validation, in the full replay; the best weights are kept."""
    validate_every: int = 50
    """Batches between validations."""
    loss: str = "policy-gradient"
    """What is climbed: `policy-gradient`, or one of cost-sensitive decisions, `cross-entropy` or `regression` (learning.py)."""
    future: str = "policy"
    """Who goes on after an action whose gain is worked out: the `policy`, or the `clairvoyant`, who knows all outcomes."""
    seed: int = 0
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        one_of("preference", self.preference, ("default", "sampled"))
        one_of("loss", self.loss, LOSSES)
        one_of("future", self.future, FUTURES)
        for name, (low, high) in _COUNTS.items():
            whole(name, getattr(self, name), low, high)
        above("learning_rate", self.learning_rate, 0.0)
        within("learning_rate", self.learning_rate, 0.0, 1.0)
        within("entropy", self.entropy, 0.0, 10.0)
        within("weight_decay", self.weight_decay, 0.0, 100.0)
        within("load_spread", self.load_spread, 1.0, 100.0)
