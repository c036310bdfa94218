"""How a controller is trained: its agent, the agent's settings, and what all agents share.

What does not live here: the settings (settings.py), and where training goes on (the environments).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from agents.evaluation import MOST_ANSWERS
from agents.learning import settings as of
from agents.learning.settings import Settings
from agents.learning.settings_file import tuned
from runtime.settings import above, one_of, shown, whole
from synera_env import Preference, SettingError
from synera_env.reward import trained_for

STOPS = ("steps", "beats-rules")
_COUNTS = {
    "steps": (1, 1_000_000_000),
    "envs": (1, 1024),
    "validation_answers": (1, MOST_ANSWERS),
    "validate_every": (1, 1_000_000_000),
    "seed": (0, 2**32 - 1),
}


@dataclass(frozen=True)
class Kind:
    """What is known of an agent before it is built."""

    settings: type[Settings]
    about: str
    """In a few words."""
    steps: int
    """Of a training, unless one says otherwise: about a minute of a core, off policy two."""
    validate_every: int
    envs: int


_ON_POLICY = 400_000, 32_768, 64
_OFF_POLICY = 80_000, 8_192, 16
AGENTS: dict[str, Kind] = {
    "ppo": Kind(of.PPOSettings, "PPO, of knobs or of choices", *_ON_POLICY),
    "a2c": Kind(of.A2CSettings, "A2C, likewise", *_ON_POLICY),
    "recurrent-ppo": Kind(of.RecurrentPPOSettings, "PPO with an LSTM", 200_000, 32_768, 64),
    "maskable-ppo": Kind(of.MaskablePPOSettings, "PPO of those choices that can be done", *_ON_POLICY),
    "sac": Kind(of.SACSettings, "SAC, of knobs", *_OFF_POLICY),
    "td3": Kind(of.TD3Settings, "TD3, of knobs", *_OFF_POLICY),
    "tqc": Kind(of.TQCSettings, "TQC, of knobs", *_OFF_POLICY),
    "dqn": Kind(of.DQNSettings, "DQN, of choices", 120_000, 8_192, 16),
    "discrete-sac": Kind(of.DiscreteSACSettings, "SAC of choices", *_OFF_POLICY),
    "counterfactual": Kind(of.CounterfactualSettings, "exact gradients over token graphs", 400, 50, 1),
}
"""By name."""


@dataclass(frozen=True)
class Recipe:
    """See the module."""

    agent: str
    settings: Settings
    steps: int
    """Environment steps (chunks); of counterfactual training, batches."""
    validate_every: int
    """Of them between validations."""
    envs: int
    """Environments stepped side by side; 1 for counterfactual training, which steps none."""
    preference: str = "default"
    """See :data:`synera_env.reward.Trained`; of `sampled`, one policy serves all."""
    validation_answers: int = 64
    """Answers of each validation; the best weights are kept."""
    stop_when: str = "steps"
    """`steps`: when they are done; `beats-rules`: as soon as validation says, with its 95 % interval, that the policy beats every rule."""
    patience: int | None = None
    """Validations in a row that may bring nothing better; None is any number."""
    seconds: float | None = None
    """Of wall time; the first validation after so many is the last, and counterfactual training anneals by them where they are over
    sooner than its steps. None is any number."""
    seed: int = 0
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        one_of("agent", self.agent, tuple(AGENTS))
        trained_for(self.preference)  # refused, if it is unknown
        one_of("stop_when", self.stop_when, STOPS)
        for name, (low, high) in _COUNTS.items():
            whole(name, getattr(self, name), low, high)
        if self.patience is not None:
            whole("patience", self.patience, 1, 1_000_000)
        if self.seconds is not None:
            above("seconds", self.seconds, 0)
        if type(self.settings) is not AGENTS[self.agent].settings:
            raise SettingError(f"settings of {shown(type(self.settings).__name__)} are none of {self.agent}")
        if self.agent == "counterfactual" and self.envs != 1:
            raise SettingError(
                f"envs={self.envs} says nothing of counterfactual training, which steps no environments; leave it out"
            )
        own = self.settings
        if isinstance(own, of.Proximal) and isinstance(own, of.OnPolicy) and self.envs == own.rollout == 1:
            raise SettingError(f"envs * rollout = 1: an update of {self.agent} is over at least 2 steps; raise one of them")

    @classmethod
    def of(
        cls,
        agent: str = "ppo",
        settings: Settings | None = None,
        *,
        steps: int | None = None,
        validate_every: int | None = None,
        envs: int | None = None,
        **shared: Any,
    ) -> Self:
        """Return a recipe; what is None is as it suits the agent.

        Raises:
            SettingError: something is out of range.
        """
        one_of("agent", agent, tuple(AGENTS))
        kind = AGENTS[agent]
        return cls(
            agent,
            tuned(agent, kind.settings) if settings is None else settings,
            kind.steps if steps is None else steps,
            kind.validate_every if validate_every is None else validate_every,
            kind.envs if envs is None else envs,
            **shared,
        )

    @classmethod
    def stated(cls, stated: Mapping[str, Any]) -> Self:
        """Return the recipe that :meth:`as_stated` described.

        Raises:
            SettingError: it is not of this version, or something is out of range.
        """
        try:
            kind = AGENTS[stated["agent"]]
            names = {field.name for field in fields(cls)} - {"settings"}
            if set(stated) != names | {"settings"}:
                raise KeyError(*(set(stated) ^ (names | {"settings"})))
            return cls(settings=kind.settings(**stated["settings"]), **{name: stated[name] for name in names})
        except (KeyError, TypeError) as error:
            raise SettingError(f"this is no recipe of this version: {shown(str(error), 120)}; train anew") from None

    @property
    def weights(self) -> Preference | None:
        """Of all answers; None draws each."""
        return trained_for(self.preference)

    def as_stated(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)
