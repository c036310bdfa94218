"""How trainings are done, as arguments: what `synera train` and `synera sweep` share.

What does not live here: whose training it is and where it is written (train.py, sweep.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agents.learning.imitation import Beginning
from scripts._world import World
from synera_env.reward import Trained

_OF_RECIPE = ("steps", "validate_every", "envs", "preference", "validation_answers", "stop_when", "patience", "seconds")


@dataclass(frozen=True)
class Training(World):
    """How trainings are done."""

    steps: int | None = None
    """Environment steps (chunks); of counterfactual training, batches. By default as suits the agent: 400,000 on policy (200,000
    with a memory), 80,000 off policy (120,000 of dqn), or 400."""
    validate_every: int | None = None
    """Steps between validations, likewise: 32,768, off policy 8,192, or 50."""
    envs: int | None = None
    """Environments stepped side by side, likewise: 64, off policy 16."""
    preference: Trained = "default"
    """What the answers are valued by: the default weights; `sampled`, drawn for each, so that one policy serves all; or the weights of a
    name, as --prefer of synera deploy has them."""
    validation_answers: int = 64
    """Answers of each validation; the best weights are kept."""
    stop_when: Literal["steps", "beats-rules"] = "steps"
    """`beats-rules`: stop as soon as validation says, with its 95 % interval, that the policy beats every rule."""
    against: tuple[str, ...] = ()
    """Controllers that count as rules to beat, beside those that need no figures: files of fitted rules, names, bundles."""
    patience: int | None = None
    """Stop after so many validations in a row that brought nothing better."""
    seconds: float | None = None
    """Stop at the first validation after so many seconds, what is done before the first step included."""
    imitate: str | None = None
    """Begin by imitating this controller: the name of a rule, the file of a fitted one, or a bundle."""
    begin_from: Path | None = None
    """Begin with the network of this finished counterfactual run; for agents of choices, such as ppo with --set actions=choices."""
    save_graphs: bool = True
    """Keep what graphs have grown to in runs/NAME/graphs, at every validation, the last one is at the end; --resume goes on from
    there, and a later training with --graphs."""

    def shared(self) -> dict[str, Any]:
        """What any agent's recipe takes."""
        return {name: getattr(self, name) for name in _OF_RECIPE}

    def beginning(self) -> Beginning | None:
        """What it begins with.

        Raises:
            SettingError: two are named, or the run is none to begin with.
            TraceError: the run is missing.
        """
        begins = self.imitate is not None or self.begin_from is not None
        return Beginning(self.imitate, self.begin_from) if begins else None
