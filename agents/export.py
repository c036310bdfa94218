"""From a trained policy to a bundle: its network as ONNX, checked against what was trained.

What does not live here: the bundle's format (bundle.py) and the training (learned.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.base import Controller
from agents.bundle import Bundle, BundleMeta, Normaliser
from synera_env import DecisionEnv

_SAMPLES = 256  # observations of the parity check


class Actor(torch.nn.Module):
    """The deterministic part of an SB3 actor-critic policy: normalised observation to mean action."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.latent, self.head = policy.mlp_extractor.policy_net, policy.action_net

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """[batch, entries] to [batch, knobs]."""
        return self.head(self.latent(observation))


def export_policy(
    policy: Any, normaliser: Normaliser, controller: Controller, env: DecisionEnv, provenance: Mapping[str, Any], folder: Path
) -> None:
    """Write a trained policy as a bundle, whole or not at all.

    Args:
        policy: of stable-baselines3, actor-critic.
        normaliser: of its observations.
        controller: the policy as it was trained, which the bundle must equal.
        env: gives schema, deployment, and the observations of the check.
        provenance: what made it.
        folder: where to write; the bundle is named after the folder above it.

    Raises:
        BundleError: the exported policy acts differently.
    """
    observations = _observations(env, controller, _SAMPLES)
    program = torch.onnx.export(
        Actor(policy).eval(),
        (torch.zeros(2, observations.shape[1]),),
        input_names=["observation"],
        output_names=["action"],
        dynamic_shapes={"observation": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # only the legacy exporter returns nothing
    deployment = env.deployment()
    meta = BundleMeta.of(folder.parent.name, env.schema, normaliser, deployment, provenance)
    made = Bundle(meta, deployment.tensors, program.model_proto.SerializeToString())
    made.checked(controller, observations).save(folder)


def _observations(env: DecisionEnv, controller: Controller, samples: int) -> NDArray[np.float32]:
    """Observations that the controller really meets."""
    rows: list[NDArray[np.float32]] = []
    seed = 0
    while len(rows) < samples:
        observation, _ = env.reset(seed=seed)
        done, seed = False, seed + 1
        while not done and len(rows) < samples:
            rows.append(observation)
            observation, _, terminated, truncated, _ = env.step(controller.predict(observation, deterministic=True)[0])
            done = terminated or truncated
    return np.stack(rows)
