"""From a trained policy to a bundle: its network as ONNX, checked against what was trained.

What does not live here: the bundle's format (bundle.py) and the training (learning/).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.base import Controller
from agents.bundle import Bundle, Parity, Training
from agents.onnx_policy import OnnxController
from agents.policy import ControllerPolicy
from synera_env import DecisionEnv

_SAMPLES = 256  # observations of the parity check


class Actor(torch.nn.Module):
    """The deterministic part of an SB3 actor-critic policy: raw observation to mean action."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.scaling, self.latent, self.head = policy.features_extractor, policy.mlp_extractor.policy_net, policy.action_net

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """[batch, entries] to [batch, knobs]."""
        return self.head(self.latent(self.scaling(observation)))


def export_policy(policy: Any, controller: Controller, env: DecisionEnv, training: Training, folder: Path) -> None:
    """Write a trained policy as a bundle, whole or not at all.

    Args:
        policy: of stable-baselines3, actor-critic.
        controller: the policy as it was trained, which the bundle must equal.
        env: gives schema, deployment, and the observations of the check.
        training: what the bundle must say of it.
        folder: where to write.

    Raises:
        BundleError: the exported policy acts differently.
    """
    export_module(Actor(policy), controller, env, training, folder)


def export_module(module: torch.nn.Module, controller: Controller, env: DecisionEnv, training: Training, folder: Path) -> None:
    """Write a plain torch policy as a bundle, whole or not at all.

    Args:
        module: raw observations [batch, entries] to actions [batch, knobs], of the operators that a bundle's policy may have.
        controller: see :func:`export_policy`, likewise the rest.
        env: see there.
        training: see there.
        folder: see there.

    Raises:
        BundleError: the exported policy acts differently, or has other operators.
    """
    observations = _observations(env, controller, _SAMPLES)
    content = _onnx(module, observations.shape[1])
    exported = OnnxController(content, observations.shape[1], len(env.schema.rows), training.name)
    parity = Parity.of(exported, controller, observations)
    Bundle.of(content, env.schema, env.deployment(), training, parity).save(folder)


def _onnx(module: torch.nn.Module, entries: int) -> bytes:
    program = torch.onnx.export(
        module.eval(),
        (torch.zeros(2, entries),),
        input_names=["observation"],
        output_names=["action"],
        dynamic_shapes={"observation": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # only the legacy exporter returns nothing
    content: bytes = program.model_proto.SerializeToString()
    return content


def _observations(env: DecisionEnv, controller: Controller, samples: int) -> NDArray[np.float32]:
    """Observations that the controller really meets."""
    rows: list[NDArray[np.float32]] = []
    policy = ControllerPolicy(controller, env.schema)
    seed = 0
    while len(rows) < samples:
        observation, _ = env.reset(seed=seed)
        policy.begin(seed)
        done, seed = False, seed + 1
        while not done and len(rows) < samples:
            rows.append(observation)
            observation, _, terminated, truncated, _ = env.step(policy.act(observation))
            done = terminated or truncated
    return np.stack(rows)
