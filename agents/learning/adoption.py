"""An actor-critic of choices that begins with the network of a counterfactual training.

What does not live here: that training (agents/counterfactual), and the fit of the value function that comes after it (imitation.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.learning.algorithms import chooses
from agents.learning.checkpoint import part
from agents.learning.recipe import Recipe
from agents.learning.run_folder import CHECKPOINT
from agents.learning.settings import OnPolicy
from agents.scaling import CLIP
from runtime.settings import shown
from synera_env import SettingError


def network_of(run: Path) -> dict[str, torch.Tensor]:
    """Return the best weights of a finished counterfactual run.

    Raises:
        SettingError: there are none.
    """
    try:
        weights = part(load_file(run / CHECKPOINT), "best.")
    except (OSError, SafetensorError):
        weights = {}
    if "body.0.weight" not in weights:
        raise SettingError(
            f"no counterfactual run at {shown(str(run), 200)[1:-1]}; name the folder of one, such as runs/counterfactual"
        )
    return weights


def adopt(model: BaseAlgorithm, recipe: Recipe, weights: Mapping[str, torch.Tensor]) -> None:
    """Put the network of :class:`agents.counterfactual.policy.ChoiceNet` into an actor-critic of choices; its values are left alone.

    What the network was shown as one and the same value for ever (the past, which the reduced model does not have) it is made
    blind to: it will vary now, and the network never learned what that means.

    Args:
        model: PPO, A2C or maskable PPO, over choices.
        recipe: its.
        weights: of the network.

    Raises:
        SettingError: it is another agent, or of another width.
    """
    check_adopts(recipe, weights)
    low, high = weights["scaling.low"], weights["scaling.high"]
    center, scale = weights["scaling.center"], weights["scaling.scale"]
    constant = low == high
    first, bias = weights["body.0.weight"].clone(), weights["body.0.bias"].clone()
    bias += first[:, constant] @ ((low - center) / scale).clamp(-CLIP, CLIP)[constant]
    first[:, constant] = 0.0
    policy: Any = model.policy
    layers = (policy.mlp_extractor.policy_net[0], policy.mlp_extractor.policy_net[2], policy.action_net)
    found = ((first, bias), *((weights[f"body.{n}.weight"], weights[f"body.{n}.bias"]) for n in (2, 4)))
    with torch.no_grad():
        for layer, (weight, own) in zip(layers, found, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(own)


def check_adopts(recipe: Recipe, weights: Mapping[str, torch.Tensor]) -> None:
    """Do nothing if an agent can begin with a network.

    Raises:
        SettingError: it does not act over choices by an actor-critic, or is of another width.
    """
    hidden = len(weights["body.0.weight"])
    if not (isinstance(recipe.settings, OnPolicy) and chooses(recipe.settings)):
        raise SettingError(
            f"{recipe.agent} cannot begin from a counterfactual run as it is set; ppo can, with --set actions=choices"
        )
    if recipe.settings.hidden != hidden:
        raise SettingError(f"hidden={recipe.settings.hidden} is not that of the run to begin from; add --set hidden={hidden}")
