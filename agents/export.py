"""From a trained policy to a bundle: its network as ONNX, held against the policy itself on answers that both decide.

:func:`export_bundle` is for any policy; agents/counterfactual calls the one below it. What does not live here: what of a policy decides
(networks.py), what a user's environment does (user_env.py), the check (parity.py), the bundle's format (bundle.py), and training (learning/).
"""

from __future__ import annotations

import copy
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecNormalize

from agents.base import Controller
from agents.bundle import META, NAME_PATTERN, Bundle, Seen, Training
from agents.choices import allowed, state_choices
from agents.errors import BundleError
from agents.networks import Decider, Normalised, network_of
from agents.parity import SAMPLES, Predictor, held_against, meet
from agents.running import Network, running
from agents.user_env import UserEnv
from runtime.settings import plain, shown
from synera_env import DecisionEnv, SettingError


def export_bundle(
    model: Any,
    env: Any,
    folder: str | Path,
    *,
    training: Training | None = None,
    state: Sequence[int] = (),
    masked: bool = False,
) -> Bundle:
    """Write any policy as a bundle, which `synera deploy`, `synera evaluate` and the daemon run; whole or not at all.

    The policy as it is and the exported one decide the same answers in `env`, and must do the same: so wrappers, statistics,
    masks and recurrent states are checked as they are used. `env` is stepped for that, and reset at the end.

    Args:
        model: one of

            * an algorithm of stable-baselines3 or sb3-contrib: PPO, A2C, TRPO, SAC, TD3, DDPG, DQN, TQC, RecurrentPPO, MaskablePPO;
              or its policy. Statistics of a `VecNormalize`, of `env` or of the model's own environment, become part of the bundle.
            * a `torch.nn.Module`: observations float32 [batch, entries], as `env` shows them, to actions [batch, knobs] (clipped to
              -1..1), or, where `env` has discrete actions, to the scores of the choices, [batch, choices], of which the best is taken.
        env: the environment that it was trained in, or one like it: scalar, vectorised or wrapped. It states what the bundle fits.
        folder: where to write; an earlier bundle there is replaced.
        training: what the bundle says of the training. By default the name is the folder's (of `NAME/bundle`, NAME), the preferences
            are those of `env`, and what was seen is what the policy knows of that (`agents.scaling.Scaling`), else everything that
            the observation space allows.
        state: for a module that is recurrent: the entries of each state. It is called with the observations and float32 [batch, size]
            each, zeros at an episode's start, and returns a tuple of its output and the next states.
        masked: for a module with discrete actions: whether it may only be asked for choices that can be done.

    Returns:
        The bundle as it was written.

    Raises:
        SettingError: the model or the environment cannot be exported, they do not fit together, or the folder holds something else.
        BundleError: the model has operators that a bundle's policy may not have, or the exported policy acts differently.
    """
    folder = _usable(Path(folder))
    user = UserEnv.of(env)
    decider, predictor = _taken_apart(model, user, tuple(state), masked)
    if isinstance(model, BaseAlgorithm) and not user.statistics:
        trained = UserEnv.of(model.env) if model.get_vec_normalize_env() is not None else user
        user = UserEnv(user.env, user.decision, user.choices, user.preferences, trained.statistics)
    return _export(decider, predictor, user, training or _described(model, user, decider, folder), folder)


def export_module(module: torch.nn.Module, controller: Controller, env: DecisionEnv, training: Training, folder: Path) -> None:
    """Write a plain torch policy as a bundle; see :func:`export_bundle`.

    Args:
        module: raw observations [batch, entries] to actions [batch, knobs], of the operators that a bundle's policy may have.
        controller: the policy as it was trained, which the bundle must equal.
        env: gives schema, deployment, and the answers of the check.
        training: what the bundle must say of it.
        folder: where to write.

    Raises:
        BundleError: the exported policy acts differently, or has other operators.
    """
    _export(Decider(module), controller, UserEnv.of(env), training, folder)


# ---------------------------------------------------------------- what a user hands over


@dataclass(frozen=True)
class _Module:
    """A torch module as a predictor."""

    module: torch.nn.Module
    sizes: tuple[int, ...]
    chooses: bool

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[Any, Any]:
        """One observation at a time."""
        given = [torch.as_tensor(np.asarray(observation, np.float32))[None]]
        given += [torch.zeros(1, size) for size in self.sizes] if state is None or episode_start[0] else list(state)
        with torch.no_grad():
            found = self.module(*given)
        output, *following = found if self.sizes else (found,)
        if not self.chooses:
            return np.clip(output[0].numpy(), -1.0, 1.0), following
        return int(allowed(output.numpy(), action_masks)[0].argmax()), following


def _usable(folder: Path) -> Path:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / META).is_file():
        raise SettingError(f"folder={shown(str(folder), 200)} holds other files, and a bundle would replace them; name another")
    return folder


def _taken_apart(model: Any, user: UserEnv, state: tuple[int, ...], masked: bool) -> tuple[Decider, Predictor]:
    """What of a model decides, and the model as it is used."""
    if isinstance(model, BaseAlgorithm | BasePolicy):
        if state or masked:
            raise SettingError("state and masked are for a torch.nn.Module; a policy of stable-baselines3 says both itself")
        _check_spaces(model, user)
        return network_of(model.policy if isinstance(model, BaseAlgorithm) else model), model
    if not isinstance(model, torch.nn.Module):
        raise SettingError(f"model={shown(type(model).__name__)} must be a model of stable-baselines3 or a torch.nn.Module")
    if masked and user.choices is None:
        raise SettingError("masked=True needs an env with discrete actions, such as SyneraReplay-discrete-v0")
    module = copy.deepcopy(model).cpu().eval()
    _check_sizes(module, user, state)
    return Decider(module, state, masked), _Module(module, state, user.choices is not None)


def _check_spaces(model: BaseAlgorithm | BasePolicy, user: UserEnv) -> None:
    seen, does = model.observation_space, model.action_space
    there = user.env.action_space
    fits = does.n == there.n if isinstance(does, spaces.Discrete) and isinstance(there, spaces.Discrete) else does == there
    if seen.shape != user.env.observation_space.shape or not fits:
        raise SettingError(
            f"the model sees {shown(str(seen.shape))} and does {shown(str(does))}, env shows {user.env.observation_space.shape} "
            f"and takes {shown(str(there))}; hand over the environment that the model was trained in"
        )


def _check_sizes(module: torch.nn.Module, user: UserEnv, state: tuple[int, ...]) -> None:
    """Show a module two observations."""
    schema, rows = user.decision.schema, 2
    outputs, what = (len(schema.rows), "a knob") if user.choices is None else (len(user.choices.choices), "a choice")
    given = [torch.zeros(rows, size) for size in (len(schema.low), *state)]
    wanted = [(rows, size) for size in (outputs, *state)]
    shapes = ", ".join(f"[{rows}, {each.shape[1]}]" for each in given)
    try:
        with torch.no_grad():
            found = module(*given)
    except Exception as error:
        raise SettingError(
            f"the module cannot be called with float32 {shapes}: {type(error).__name__}: {plain(str(error))}"
        ) from error
    made = [tuple(getattr(each, "shape", ())) for each in (found if isinstance(found, tuple) else (found,))]
    if made != wanted:
        raise SettingError(
            f"the module makes {made} of float32 {shapes}; it must make {wanted}: {what} an entry"
            + (", then the next states" if state else "")
        )


def _described(model: Any, user: UserEnv, decider: Decider, folder: Path) -> Training:
    """What can be said of a training that was not ours."""
    place = folder.resolve()
    name = place.parent.name if place.name == "bundle" else place.name
    if not re.fullmatch(NAME_PATTERN, name):
        raise SettingError(
            f"folder={shown(str(folder), 200)} names the bundle {shown(name)}, which must be letters, digits and ._-, not begin with "
            "a dot, and have 1 to 80 characters"
        )
    schema = user.decision.schema
    known = decider.seen if not user.statistics else None
    everything = Seen(tuple(schema.low.tolist()), tuple(schema.high.tolist()))
    steps = {"steps": model.num_timesteps} if isinstance(model, BaseAlgorithm) else {}
    provenance = {
        "algorithm": type(model).__name__,
        "system": schema.system,
        **steps,
        "wrappers": user.names,
        "seen": "by training" if known else "not known: all that the observation space allows",
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "env": user.decision.provenance(),
        "versions": {name: version(name) for name in ("synera-env", "stable-baselines3", "torch", "gymnasium", "numpy")},
    }
    return Training(name, user.preferences, known or everything, provenance)


# ---------------------------------------------------------------- the export


def _export(decider: Decider, predictor: Predictor, user: UserEnv, training: Training, folder: Path) -> Bundle:
    schema, choices = user.decision.schema, user.choices
    network = Network(decider.state, state_choices(choices.choices, schema) if choices else None, decider.masked)
    met = meet(user, predictor, decider.masked, SAMPLES)
    user.env.reset()
    content = _onnx(_module(decider, user.statistics), (len(schema.low), *decider.state))
    parity = held_against(running(content, network, schema, training.name), met)
    bundle = Bundle.of(content, network, schema, user.decision.deployment(), training, parity)
    bundle.save(folder)
    return bundle


def _module(decider: Decider, statistics: Sequence[VecNormalize]) -> torch.nn.Module:
    """A copy of what decides, behind what its observations are normalised by."""
    module = copy.deepcopy(decider.module).cpu().eval()
    for each in reversed(statistics):
        known: Any = each.obs_rms
        module = Normalised(module, known.mean, known.var, each.epsilon, each.clip_obs)
    return module.eval()


class _Flat(torch.nn.Module):
    """States as one argument, which the exporter wants."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, observation: torch.Tensor, state: list[torch.Tensor]) -> Any:
        return self.module(observation, *state)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages that it does not need, and of its own ways."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.setLevel(level)


def _onnx(module: torch.nn.Module, sizes: tuple[int, ...]) -> bytes:
    """Return a module as an ONNX file; `sizes` are the entries of an observation, then of each state."""
    observation, *state = (torch.zeros(2, size) for size in sizes)
    names = [f"state_{place}" for place in range(len(state))]
    batch = {0: torch.export.Dim("batch")}
    try:
        with _quiet():
            program = torch.onnx.export(
                _Flat(module).eval(),
                (observation, state),
                input_names=["observation", *names],
                output_names=["action", *(f"next_{name}" for name in names)],
                dynamic_shapes={"observation": batch, "state": [batch for _ in state]},
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # whatever a user's module, or the exporter, has to say
        cause = plain(str(error.__cause__ or error).strip().splitlines()[0])
        raise BundleError(
            f"the policy cannot be written as ONNX: {cause}; its forward must be of tensor operations alone"
        ) from error
    assert program is not None  # only the legacy exporter returns nothing
    content: bytes = program.model_proto.SerializeToString()
    return content
