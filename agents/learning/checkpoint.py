"""A training under way as a file, to go on from: tensors as safetensors, everything else as JSON in its header. Never pickle.

What does not live here: when it is written, and what is in it (run.py, agents/counterfactual/checkpoint.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from runtime.errors import SettingError
from runtime.settings import shown
from synera_env import write_bytes

REPLAY = "replay.safetensors"
"""Beside a checkpoint: what an off-policy agent remembers."""
Tensors = dict[str, torch.Tensor]


@dataclass
class Best:
    """How far a training has come, and the best weights of validation so far."""

    steps: int = 0
    seconds: float = 0.0
    """Of wall time so far, validations included."""
    best_steps: int = 0
    best_reward: float = float("-inf")
    best_covered: bool = False
    """Enough of the best weights' answers stayed inside the recorded graphs."""
    without_gain: int = 0
    """Validations since them."""
    beat_at: tuple[int, float] | None = None
    """Steps and seconds until validation first said, with its interval, that the policy beats every rule."""
    best_weights: Tensors = field(default_factory=dict)

    @property
    def told(self) -> dict[str, Any]:
        """All but the weights, as plain data."""
        return {name: value for name, value in vars(self).items() if name != "best_weights"}


class Checkpoint(NamedTuple):
    """What a file holds."""

    tensors: Tensors
    notes: dict[str, Any]

    def best(self) -> Best:
        """Return how far the training had come."""
        told = dict(self.notes["progress"])
        told["beat_at"] = told["beat_at"] and tuple(told["beat_at"])
        return Best(**told, best_weights=part(self.tensors, "best."))


def write_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], best: Best, notes: Mapping[str, Any]) -> None:
    """Write what a training needs to go on, whole or not at all.

    Args:
        path: the file.
        tensors: weights and moments, by name.
        best: how far it has come.
        notes: whatever else, plain data.
    """
    found = dict(tensors) | {f"best.{name}": value for name, value in best.best_weights.items()}
    contiguous = {name: value.detach().contiguous().clone() for name, value in found.items()}
    told = {"progress": best.told, **notes}
    write_bytes(path, save(contiguous, {name: json.dumps(value) for name, value in told.items()}))


def read_checkpoint(path: Path, use: Callable[[Checkpoint], Best]) -> Best:
    """Read a file, and bring a training to where it says that it was.

    Args:
        path: the file.
        use: takes it; what does not fit may raise as loading weights does.

    Returns:
        What `use` returns.

    Raises:
        SettingError: the file is missing or damaged, or is of another training.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            notes = {name: json.loads(value) for name, value in (opened.metadata() or {}).items()}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return use(Checkpoint(tensors, notes))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError(f"no checkpoint that can be gone on from at {path}: {shown(str(error), 200)}; train anew") from None


def require_same(what: str, stated: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with another configuration or in another world.

    Raises:
        SettingError: one of the values differs.
    """
    if differs := difference(stated, wanted):
        raise SettingError(f"the checkpoint is of a {what} with {differs}; go on with the same")


def difference(stated: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Return the first value that is not the one that is wanted, as `NAME=VALUE, not VALUE`; None where all are.

    Args:
        stated: as it was read from JSON.
        wanted: plain data.
    """
    for name, value in wanted.items():
        there = stated.get(name)
        if isinstance(value, Mapping) and isinstance(there, Mapping):
            if inner := difference(there, value):
                return inner
        elif there != json.loads(json.dumps(value)):
            return f"{name}={shown(there)[:80]}, not {shown(value)[:80]}"
    return None


def part(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    """Return those whose names begin so, without that."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


# ---------------------------------------------------------------- optimisers


def moments(prefix: str, optimizer: torch.optim.Optimizer) -> Tensors:
    """Return what an optimiser remembers of each parameter, by number and name."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}{number}.{name}": torch.as_tensor(value) for number, own in state.items() for name, value in own.items()}


def restore_moments(optimizer: torch.optim.Optimizer, found: Mapping[str, torch.Tensor]) -> None:
    """Inverse of :func:`moments`, of names without the prefix."""
    state = optimizer.state_dict()
    state["state"] = {}
    for name, value in found.items():
        number, _, what = name.partition(".")
        state["state"].setdefault(int(number), {})[what] = value
    optimizer.load_state_dict(state)


# ---------------------------------------------------------------- agents of stable-baselines3


def of_model(model: BaseAlgorithm) -> Tensors:
    """Return weights, moments and single numbers that are learnt, of any agent."""
    states, variables = model._get_torch_save_params()
    found: Tensors = {}
    for name in states:
        held = _held(model, name)
        if isinstance(held, torch.optim.Optimizer):
            found |= moments(f"{name}/", held)
        else:
            found |= {f"{name}/{key}": value for key, value in held.state_dict().items()}
    return found | {f"variable/{name}": _held(model, name) for name in variables}


def _held(model: BaseAlgorithm, name: str) -> Any:
    return attrgetter(name)(model)


def restore_model(model: BaseAlgorithm, tensors: Mapping[str, torch.Tensor]) -> None:
    """Inverse of :func:`of_model`."""
    states, variables = model._get_torch_save_params()
    for name in states:
        held, found = _held(model, name), part(tensors, f"{name}/")
        if isinstance(held, torch.optim.Optimizer):
            restore_moments(held, found)
        else:
            held.load_state_dict(found)
    for name in variables:
        _held(model, name).data.copy_(tensors[f"variable/{name}"])


_REMEMBERED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def write_replay(path: Path, model: BaseAlgorithm) -> None:
    """Write what an off-policy agent remembers; nothing for another."""
    if not isinstance(model, OffPolicyAlgorithm):
        return
    buffer = model.replay_buffer
    assert isinstance(buffer, ReplayBuffer)
    size = buffer.size()
    content = {name: torch.from_numpy(getattr(buffer, name)[:size]) for name in _REMEMBERED}
    write_bytes(path, save(content, {"position": str(buffer.pos), "full": str(int(buffer.full))}))


def restore_replay(path: Path, model: BaseAlgorithm) -> None:
    """Inverse of :func:`write_replay`.

    Raises:
        OSError, SafetensorError, KeyError, ValueError: it is missing, damaged or of another size.
    """
    if not isinstance(model, OffPolicyAlgorithm):
        return
    buffer = model.replay_buffer
    assert isinstance(buffer, ReplayBuffer)
    with safe_open(path, framework="np") as opened:
        for name in _REMEMBERED:
            held: np.ndarray = opened.get_tensor(name)
            getattr(buffer, name)[: len(held)] = held
        notes = opened.metadata()
    buffer.pos, buffer.full = int(notes["position"]), notes["full"] == "1"
