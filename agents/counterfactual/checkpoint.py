"""A training under way as a file, to go on from: weights, the optimizer's moments, random numbers, and the best so far. Never pickle.

What does not live here: when it is written (run.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from agents.counterfactual.config import CounterfactualConfig
from agents.counterfactual.learning import Learner
from runtime.errors import SettingError
from runtime.settings import shown
from synera_env import write_bytes

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class Progress:
    """How far a training has come."""

    steps: int = 0
    seconds: float = 0.0
    """Of wall time so far, validations included."""
    best_steps: int = 0
    best_reward: float = float("-inf")
    best_covered: bool = False
    """Enough of the best weights' answers stayed inside the recorded graphs."""
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def save(self, path: Path, learner: Learner, config: CounterfactualConfig) -> None:
        """Write all that a training needs to go on, whole or not at all."""
        tensors = {f"net.{name}": value for name, value in learner.net.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        for number, moments in learner.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": moments[name] for name in _MOMENTS}
        told = {name: value for name, value in vars(self).items() if name != "best_weights"}
        notes = {"progress": told, "config": asdict(config), "rng": learner.rng.bit_generator.state}
        contiguous = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
        write_bytes(path, save(contiguous, {name: json.dumps(value) for name, value in notes.items()}))

    @classmethod
    def load(cls, path: Path, learner: Learner, config: CounterfactualConfig) -> Self:
        """Bring a learner to where a file says that its training was.

        Raises:
            SettingError: the file is missing or damaged, or of a training that was set up otherwise.
        """
        try:
            with safe_open(path, framework="pt") as opened:
                notes = {name: json.loads(value) for name, value in (opened.metadata() or {}).items()}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            _require(notes["config"], config)
            learner.net.load_state_dict(_part(tensors, "net."))
            _restore_moments(learner, _part(tensors, "adam."))
            learner.rng.bit_generator.state = notes["rng"]
            return cls(**notes["progress"], best_weights=_part(tensors, "best."))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, SettingError):
                raise
            raise SettingError(
                f"no checkpoint that can be gone on from at {path}: {shown(str(error), 200)}; train anew"
            ) from None


def _require(stated: Mapping[str, Any], config: CounterfactualConfig) -> None:
    wanted = asdict(config)
    if wrong := [name for name, value in wanted.items() if stated.get(name) != value]:
        name = wrong[0]
        raise SettingError(
            f"the checkpoint is of a training with {name}={stated.get(name)}, not {wanted[name]}; go on with the same"
        )


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _restore_moments(learner: Learner, moments: Mapping[str, torch.Tensor]) -> None:
    state = learner.optimizer.state_dict()
    numbers = sorted({int(name.split(".")[0]) for name in moments})
    state["state"] = {number: {name: moments[f"{number}.{name}"] for name in _MOMENTS} for number in numbers}
    learner.optimizer.load_state_dict(state)
