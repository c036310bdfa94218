"""Any policy becomes a bundle that acts as it does where it was trained; what could not, is refused, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnx
import pytest
import torch
from gymnasium import wrappers
from sb3_contrib import ARS, TQC, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

from agents import export, onnx_policy, parity
from agents.base import Masked
from agents.bundle import Bundle, BundleError, Parity
from agents.evaluation import answer, make_plan
from agents.export import export_bundle
from agents.onnx_policy import OPERATORS
from agents.policy import ControllerPolicy
from agents.scaling import Scaling
from agents.user_env import UserEnv
from agents.vector import CompiledVecEnv
from synera_env import (
    DiscreteChoices,
    FixedPreference,
    Outages,
    Preference,
    PreferenceRange,
    RandomWorld,
    SettingError,
    SyneraReplayEnv,
    synera_schema,
)
from tests.support.recorded import Recorded

SCHEMA = synera_schema(2)
ENTRIES, KNOBS, CHOICES = len(SCHEMA.low), len(SCHEMA.rows), len(SCHEMA.choices)
SMALL: dict[str, Any] = {"net_arch": [16, 16]}
OURS: dict[str, Any] = SMALL | {
    "features_extractor_class": Scaling,
    "features_extractor_kwargs": {"center": SCHEMA.center, "scale": SCHEMA.scale},
}
LSTM: dict[str, Any] = SMALL | {"lstm_hidden_size": 8, "n_lstm_layers": 2}
ROUGH = Outages(every_seconds=0.5, mean_seconds=0.5)


def box(pair: Recorded) -> gym.Env[Any, Any]:
    return Monitor(pair.env())


def discrete(pair: Recorded) -> gym.Env[Any, Any]:
    return Monitor(DiscreteChoices(pair.env(outages=ROUGH), max_offload=0.5))


def normalised(pair: Recorded) -> VecNormalize:
    """With the statistics of a few random answers; entries that never change have a tiny variance."""
    env = VecNormalize(DummyVecEnv([lambda: FixedPreference(pair.env(), Preference())] * 2), clip_obs=3.0)
    env.reset()
    rng = np.random.default_rng(0)
    for _ in range(200):
        env.step(rng.uniform(-1, 1, (2, KNOBS)).astype(np.float32))
    env.training = False
    return env


@pytest.fixture(scope="module")
def written() -> dict[Any, bytes]:
    return {}


@pytest.fixture(autouse=True)
def written_once(written: dict[Any, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network is the same file; torch takes its time to write one."""
    write = export._onnx

    def once(module: torch.nn.Module, sizes: tuple[int, ...]) -> bytes:
        weights = b"".join(weight.numpy().tobytes() for weight in module.state_dict().values())
        key = repr(module), getattr(module, "what", ""), sizes, weights
        if key not in written:
            written[key] = write(module, sizes)
        return written[key]

    monkeypatch.setattr(export, "_onnx", once)


def stirred(model: Any) -> Any:
    """As if it had learnt much: an untrained actor hardly looks at anything."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.policy.parameters():
            weight += 0.4 * weight.std().nan_to_num(0.0).clamp(min=0.5) * torch.randn(weight.shape, generator=generator)
        if isinstance(model, MaskablePPO):  # it would send every chunk, and so meets its limit
            model.policy.action_net.bias[CHOICES // 2 :] += 5.0
    return model


Make = Callable[[Recorded], Any]
MODELS: dict[str, Make] = {
    "PPO": lambda pair: PPO("MlpPolicy", box(pair), n_steps=8, batch_size=8, policy_kwargs=dict(OURS)),
    "PPO, squashed": lambda pair: PPO(
        "MlpPolicy", box(pair), n_steps=8, batch_size=8, use_sde=True, policy_kwargs=SMALL | {"squash_output": True}
    ),
    "PPO, normalised": lambda pair: PPO("MlpPolicy", normalised(pair), n_steps=8, batch_size=8, policy_kwargs=dict(SMALL)),
    "A2C, two extractors": lambda pair: A2C(
        "MlpPolicy", box(pair), policy_kwargs=OURS | {"share_features_extractor": False, "activation_fn": torch.nn.ELU}
    ),
    "SAC": lambda pair: SAC("MlpPolicy", box(pair), buffer_size=8, policy_kwargs=dict(OURS)),
    "TD3": lambda pair: TD3("MlpPolicy", box(pair), buffer_size=8, policy_kwargs=dict(SMALL)),
    "DDPG": lambda pair: DDPG("MlpPolicy", box(pair), buffer_size=8, policy_kwargs=dict(SMALL)),
    "TQC": lambda pair: TQC("MlpPolicy", box(pair), buffer_size=8, policy_kwargs=dict(SMALL)),
    "DQN": lambda pair: DQN("MlpPolicy", discrete(pair), buffer_size=8, policy_kwargs=dict(SMALL)),
    "RecurrentPPO": lambda pair: RecurrentPPO("MlpLstmPolicy", box(pair), n_steps=8, batch_size=8, policy_kwargs=dict(LSTM)),
    "RecurrentPPO, discrete": lambda pair: RecurrentPPO(
        "MlpLstmPolicy", discrete(pair), n_steps=8, batch_size=8, policy_kwargs=LSTM
    ),
    "MaskablePPO": lambda pair: MaskablePPO("MlpPolicy", discrete(pair), n_steps=8, batch_size=8, policy_kwargs=dict(OURS)),
}


def held_side_by_side(model: Any, env: Any, bundle: Bundle, answers: int = 6) -> tuple[float, int]:
    """How far the bundle's knobs are from the model's along the model's own answers; and at how many decisions a choice was out."""
    user, acts = UserEnv.of(env), bundle.controller(SCHEMA)
    furthest, masked = 0.0, 0
    with user.tapped() as (outer, tap):
        for seed in range(9000, 9000 + answers):
            policy = ControllerPolicy(acts, SCHEMA)
            policy.begin(0)
            observation, _ = outer.reset(seed=seed)
            state, start, done = None, np.ones(1, bool), False
            while not done:
                more = {}
                if isinstance(acts, Masked):
                    more = {"action_masks": outer.get_wrapper_attr("action_masks")()}
                    masked += not more["action_masks"].all()
                wanted, state = model.predict(user.shown(observation), state, start, deterministic=True, **more)
                ours = policy.act(tap.observation, user.decision.point)
                observation, _, terminated, truncated, _ = outer.step(wanted)
                furthest = max(furthest, float(np.abs(ours - np.clip(tap.action, -1, 1)).max()))
                start, done = np.zeros(1, bool), terminated or truncated
    return furthest, masked


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_stable_baselines_acts_as_it_was_trained(name: str, pair: Recorded, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = stirred(MODELS[name](pair))
    written = export_bundle(model, model.get_env(), tmp_path / "mine" / "bundle")
    bundle = Bundle.load(tmp_path / "mine" / "bundle")
    assert bundle.meta == written.meta
    assert (bundle.meta.name, bundle.meta.parity.samples) == ("mine", 256)
    furthest, masked = held_side_by_side(model, model.get_env(), bundle)
    assert furthest <= 1e-5
    network = bundle.meta.network
    assert network.state == ((8, 8, 8, 8) if "Recurrent" in name else ())
    assert (network.choices is not None) == isinstance(model.action_space, gym.spaces.Discrete)
    assert network.masked == (name == "MaskablePPO") == (masked > 0)
    plan = make_plan(pair.env(), 4)
    found = [answer(pair.env(), bundle.controller(SCHEMA), planned) for planned in plan]
    knobs = {record.knobs for outcome in found for record in outcome.records}
    assert len(knobs) > 1  # it does look at what it is shown


def test_a_policy_alone_and_its_algorithm_are_one_bundle(pair: Recorded, tmp_path: Path) -> None:
    model = stirred(MODELS["SAC"](pair))
    one = export_bundle(model, box(pair), tmp_path / "one")
    other = export_bundle(model.policy, DummyVecEnv([lambda: box(pair)]), tmp_path / "other")
    rows = np.random.default_rng(0).uniform(SCHEMA.low, SCHEMA.high, (64, ENTRIES)).astype(np.float32)
    np.testing.assert_array_equal(*(each.controller(SCHEMA).predict(rows)[0] for each in (one, other)))


def test_training_goes_on_after_an_export_and_nothing_of_the_model_is_changed(pair: Recorded, tmp_path: Path) -> None:
    model = PPO("MlpPolicy", box(pair), n_steps=8, batch_size=8, policy_kwargs=dict(SMALL))
    model.learn(8)
    before = {name: weight.clone() for name, weight in model.policy.state_dict().items()}
    export_bundle(model, model.get_env(), tmp_path / "mine")
    after = model.policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    model.learn(16, reset_num_timesteps=False)
    assert model.num_timesteps == 24


# ---------------------------------------------------------------- masks


def test_a_masked_bundle_never_does_what_cannot_be_done(pair: Recorded, tmp_path: Path) -> None:
    """Nor does it keep the chunk and lose its choice: the best of what can be done is what it takes."""
    model = stirred(MODELS["MaskablePPO"](pair))
    bundle = export_bundle(model, model.get_env(), tmp_path / "mine")
    acts, env, out = bundle.controller(SCHEMA), pair.env(outages=ROUGH), 0
    assert isinstance(acts, Masked)
    for planned in make_plan(env, 12):
        points: list[Any] = []
        acts_masks = acts.masks
        acts.masks = lambda point: (points.append(point), acts_masks(point))[1]  # type: ignore[method-assign] # noqa: B023
        outcome = answer(env, acts, planned)
        acts.masks = acts_masks  # type: ignore[method-assign]
        for point, record in zip(points, outcome.records, strict=False):
            assert not SCHEMA.impossible(point, record.knobs)
            out += not acts.masks(point).all()
    assert out > 3


def test_a_masked_bundle_asks_for_its_masks(pair: Recorded, tmp_path: Path) -> None:
    acts = export_bundle(MODELS["MaskablePPO"](pair), discrete(pair), tmp_path / "mine").controller(SCHEMA)
    row = np.zeros(ENTRIES, np.float32)
    with pytest.raises(BundleError, match="was trained with masks, and was handed none"):
        acts.predict(row)
    with pytest.raises(SettingError, match="hand act the decision point, too"):
        ControllerPolicy(acts, SCHEMA).act(row)
    assert isinstance(acts, Masked)
    with pytest.raises(BundleError, match="left no choice"):
        acts.predict(np.stack([row, row]), action_masks=np.arange(2)[:, None] * np.ones((2, CHOICES), bool))
    for number in range(CHOICES):
        only = np.arange(CHOICES) == number
        np.testing.assert_array_equal(acts.predict(row, action_masks=only)[0], acts._acts.actions[number])  # type: ignore[attr-defined]


# ---------------------------------------------------------------- a fault is found


FAULTS = {
    "another action": ("PPO", lambda model, patch: patch.setattr(model.policy.action_net, "bias", _shifted(model, 1e-4))),
    "another choice": ("DQN", lambda model, patch: patch.setattr(model, "predict", lambda *_, **__: (np.int64(3), None))),
    "statistics left out": (
        "PPO, normalised",
        lambda model, patch: patch.setattr(export, "_module", lambda decider, statistics, of=export._module: of(decider, ())),
    ),
    "masks left out": ("MaskablePPO", lambda model, patch: patch.setattr(parity, "allowed", lambda scores, masks: scores)),
    "a state that is never forgotten": (
        "RecurrentPPO",
        lambda model, patch: patch.setattr(
            onnx_policy.OnnxPolicy,
            "_carried",
            lambda self, state, start, rows: state or tuple(np.zeros((rows, size), np.float32) for size in self._state),
        ),
    ),
    "a state that is never kept": (
        "RecurrentPPO, discrete",
        lambda model, patch: patch.setattr(
            onnx_policy.OnnxPolicy,
            "_carried",
            lambda self, state, start, rows: tuple(np.zeros((rows, size), np.float32) for size in self._state),
        ),
    ),
}


def _shifted(model: Any, by: float) -> torch.nn.Parameter:
    """A bias that the exported network gets, and the model does not act by."""
    known, predict = model.policy.action_net.bias, model.predict
    model.predict = lambda *given, **more: (np.clip(predict(*given, **more)[0] - by, -1, 1), None)
    return known


@pytest.mark.parametrize("fault", FAULTS)
def test_an_export_that_acts_otherwise_is_not_written(
    fault: str, pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, plant = FAULTS[fault]
    model = stirred(MODELS[name](pair))
    if fault == "another action":
        with torch.no_grad():
            model.policy.action_net.weight *= 0.01  # else every action is at an end of its range
            model.policy.action_net.bias *= 0.01
    plant(model, monkeypatch)
    with pytest.raises(BundleError, match=r"differs from the trained one by|otherwise than each by itself"):
        export_bundle(model, model.get_env(), tmp_path / "mine")
    assert not list(tmp_path.iterdir())


class Choosing:
    """Always the choice of this number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def predict(self, *_: Any, **__: Any) -> tuple[Any, Any]:
        return np.int64(self.number), None


class Tied(torch.nn.Module):
    """Choices 3 and 5 alike, all others worse."""

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        base = observation[:, :1] * 0.0
        return torch.cat([base - 1.0, base - 1.0, base - 1.0, base, base - 1.0, base, *[base - 1.0] * (CHOICES - 6)], 1)


def test_choices_that_are_alike_are_no_difference(pair: Recorded, tmp_path: Path) -> None:
    env = DiscreteChoices(pair.env())
    bundle = export_bundle(Tied(), env, tmp_path / "mine")
    np.testing.assert_array_equal(
        bundle.controller(SCHEMA).predict(np.zeros(ENTRIES, np.float32))[0], SCHEMA.action(SCHEMA.choices[3])
    )
    exported = bundle.controller(SCHEMA)._acts
    five, four = (parity.meet(UserEnv.of(env), Choosing(number), masked=False, samples=9) for number in (5, 4))
    assert parity.held_against(exported, five) == Parity(0.0, 9)
    with pytest.raises(BundleError, match=r"differs from the trained one by 1\.00e\+00"):
        parity.held_against(exported, four)


# ---------------------------------------------------------------- what stands between


class Sneaky(gym.Wrapper[Any, Any, Any, Any]):
    """Changes what it is not asked to."""

    def __init__(self, env: gym.Env[Any, Any], what: str) -> None:
        super().__init__(env)
        self.what = what

    def step(self, action: Any) -> Any:
        if self.what == "actions":
            action = -action
        observation, *others = self.env.step(action)
        return (observation * np.float32(0.5) if self.what == "observations" else observation), *others


CHANGING: dict[str, tuple[Callable[[Any], Any], str]] = {
    "RescaleAction": (lambda env: wrappers.RescaleAction(env, np.float32(-2), np.float32(2)), "wrapper RescaleAction"),
    "TransformObservation": (
        lambda env: wrappers.TransformObservation(env, lambda seen: seen / 2, env.observation_space),
        "wrapper TransformObservation",
    ),
    "NormalizeObservation": (wrappers.NormalizeObservation, "wrapper NormalizeObservation"),
    "FrameStackObservation": (lambda env: wrappers.FrameStackObservation(env, 2), "wrapper FrameStackObservation"),
    "VecFrameStack": (lambda env: VecFrameStack(DummyVecEnv([lambda: env]), 2), "wrapper VecFrameStack"),
    "below others": (lambda env: Monitor(wrappers.RescaleAction(env, np.float32(-2), np.float32(2))), "wrapper RescaleAction"),
    "observations": (
        lambda env: Sneaky(env, "observations"),
        r"env does not show .* one of its wrappers \(Sneaky\) changes it",
    ),
    "another environment": (lambda env: gym.make("CartPole-v1"), "is no environment of Synera Env"),
    "none": (lambda env: None, "env='NoneType' is no environment"),
}


class Tiny(torch.nn.Module):
    """A policy of a user's own."""

    def __init__(self, outputs: int = KNOBS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(ENTRIES, 8), torch.nn.ReLU(), torch.nn.Linear(8, outputs))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.net(observation)


@pytest.mark.parametrize("name", CHANGING)
def test_what_changes_observations_or_actions_is_refused_by_its_name(name: str, pair: Recorded, tmp_path: Path) -> None:
    wrap, message = CHANGING[name]
    with pytest.raises(SettingError, match=message):
        export_bundle(Tiny(), wrap(pair.env()), tmp_path / "mine")
    assert not list(tmp_path.iterdir())


def test_what_changes_actions_unseen_is_found(pair: Recorded, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="differs from the trained one"):
        export_bundle(Tiny(), Sneaky(pair.env(), "actions"), tmp_path / "mine")
    env = Sneaky(DiscreteChoices(pair.env()), "actions")
    env.step = lambda action: env.env.step((action + 1) % CHOICES)  # type: ignore[method-assign]
    with pytest.raises(SettingError, match=r"a choice is not what env makes of it: .*Sneaky"):
        export_bundle(Tiny(CHOICES), env, tmp_path / "mine")
    assert not list(tmp_path.iterdir())


def test_environments_in_other_processes_are_refused(pair: Recorded, tmp_path: Path) -> None:
    elsewhere = SubprocVecEnv.__new__(SubprocVecEnv)
    elsewhere.action_space = SCHEMA.action_space
    with pytest.raises(SettingError, match=r"env=SubprocVecEnv does not show its environments .* by gymnasium\.make"):
        export_bundle(Tiny(), elsewhere, tmp_path / "mine")


HARMLESS: dict[str, Callable[[SyneraReplayEnv], Any]] = {
    "itself": lambda env: env,
    "watched": lambda env: Monitor(wrappers.RecordEpisodeStatistics(wrappers.TimeLimit(env, 1000))),
    "worlds": lambda env: RandomWorld(env),
    "vectorised": lambda env: VecMonitor(DummyVecEnv([lambda: env])),
    "compiled": lambda env: CompiledVecEnv(env.vector(4)),  # type: ignore[arg-type]
    "compiled, by Gymnasium": lambda env: env.vector(4),
    "side by side": lambda env: gym.vector.SyncVectorEnv([lambda: Monitor(env)]),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_nothing_is_looked_through(name: str, pair: Recorded) -> None:
    env = pair.env()
    user = UserEnv.of(HARMLESS[name](env))
    assert user.decision is env
    assert user.choices is None
    met = parity.meet(user, _Knobs(), masked=False, samples=30)
    assert len(met) == 30
    inner = user.env
    while isinstance(inner, gym.Wrapper):
        inner = inner.env
    assert inner is env  # nothing of ours is left between


class _Knobs:
    def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        return np.tanh(observation[:KNOBS]), None


def test_rows_that_are_compiled_and_choose_are_known_by_their_actions(pair: Recorded, tmp_path: Path) -> None:
    env = CompiledVecEnv(pair.env().vector(2))  # type: ignore[arg-type]
    env.action_space = gym.spaces.Discrete(CHOICES)
    bundle = export_bundle(Tiny(CHOICES), env, tmp_path / "mine")
    assert bundle.meta.network.choices is not None
    assert len(bundle.meta.network.choices) == CHOICES


# ---------------------------------------------------------------- what a bundle says by itself


def test_what_is_not_known_of_a_training_is_said_honestly(pair: Recorded, tmp_path: Path) -> None:
    bundle = export_bundle(Tiny(), FixedPreference(pair.env(), Preference(latency=0.3)), tmp_path / "my_net")
    meta = bundle.meta
    assert meta.name == "my_net"
    assert meta.preferences == PreferenceRange.of(Preference(latency=0.3))
    np.testing.assert_array_equal([meta.seen.low, meta.seen.high], [SCHEMA.low, SCHEMA.high])
    assert meta.provenance["seen"] == "not known: all that the observation space allows"
    assert meta.provenance["algorithm"] == "Tiny"
    assert meta.provenance["wrappers"] == ["FixedPreference"]
    assert meta.fingerprints == dict(pair.env().deployment().fingerprints)
    with pytest.raises(BundleError, match=r"was not trained for the preference latency=0\.1"):
        ControllerPolicy(bundle.controller(SCHEMA), SCHEMA)
    sampled = export_bundle(Tiny(), pair.env(), tmp_path / "any" / "bundle").meta
    assert (sampled.name, sampled.preferences) == ("any", PreferenceRange.of(None))


def test_a_policy_that_knows_what_it_has_seen_says_so(pair: Recorded, tmp_path: Path) -> None:
    model = stirred(MODELS["SAC"](pair))
    low, high = SCHEMA.low + 0.1, SCHEMA.high - 0.1
    model.policy.actor.features_extractor.has_seen(low, high)
    bundle = export_bundle(model, box(pair), tmp_path / "mine")
    np.testing.assert_allclose([bundle.meta.seen.low, bundle.meta.seen.high], [low, high], rtol=1e-6)
    assert bundle.meta.provenance["seen"] == "by training"
    rows = np.random.default_rng(0).uniform(SCHEMA.low, SCHEMA.high, (64, ENTRIES)).astype(np.float32)
    acts = bundle.controller(SCHEMA)
    np.testing.assert_array_equal(acts.predict(rows)[0], acts.predict(np.clip(rows, low, high).astype(np.float32))[0])


# ---------------------------------------------------------------- a torch module


class Gated(torch.nn.Module):
    """Recurrent, with two states."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.cell, self.head = torch.nn.GRUCell(ENTRIES, 6), torch.nn.Linear(7, KNOBS)

    def forward(self, observation: torch.Tensor, hidden: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden, count = self.cell(observation, hidden), count + 0.1
        return self.head(torch.cat([hidden, count], 1)), hidden, count


def test_a_recurrent_module_remembers_within_an_answer_and_forgets_between(pair: Recorded, tmp_path: Path) -> None:
    bundle = export_bundle(Gated(), pair.env(), tmp_path / "mine", state=(6, 1))
    assert bundle.meta.network.state == (6, 1)
    acts, rows = bundle.controller(SCHEMA), np.random.default_rng(0).uniform(0, 1, (3, ENTRIES)).astype(np.float32)
    one, state = acts.predict(rows)
    np.testing.assert_allclose(state[1], np.full((3, 1), 0.1), rtol=1e-6)
    two, state = acts.predict(rows, state, np.array([False, True, False]))
    np.testing.assert_allclose(state[1][:, 0], [0.2, 0.1, 0.2], rtol=1e-6)
    np.testing.assert_allclose(two[1], one[1], atol=1e-6)
    assert (np.abs(two - one)[[0, 2]].max(1) > 1e-4).all()
    single, alone = acts.predict(rows[0], tuple(each[:1] for each in state))
    assert single.shape == (KNOBS,)
    assert alone[0].shape == (1, 6)
    with pytest.raises(
        BundleError, match=r"has shapes \[\(3, 6\), \(3, 1\)\], it must be what it returned: \[\(1, 6\), \(1, 1\)\]"
    ):
        acts.predict(rows[0], state)


def test_a_module_with_masks_is_exported_with_them(pair: Recorded, tmp_path: Path) -> None:
    bundle = export_bundle(Tiny(CHOICES), discrete(pair), tmp_path / "mine", masked=True)
    assert bundle.meta.network.masked
    assert isinstance(bundle.controller(SCHEMA), Masked)
    assert {each["offload_budget"] for each in bundle.meta.network.choices or ()} == {0.0, 0.5}


class Everything(torch.nn.Module):
    """Of each operator that a bundle's policy may have."""

    def __init__(self) -> None:
        super().__init__()
        layers = [
            torch.nn.ELU(),
            torch.nn.LeakyReLU(),
            torch.nn.Mish(),
            torch.nn.ReLU(),
            torch.nn.Sigmoid(),
            torch.nn.LayerNorm(6),
        ]
        self.first, self.layers = torch.nn.Linear(ENTRIES, 6), torch.nn.Sequential(*layers)
        self.weight = torch.nn.Parameter(torch.eye(6, KNOBS))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        x = self.layers(self.first(observation))
        one, other = torch.chunk(x, 2, -1)
        x = torch.cat([one.exp() / (other.abs() + 1.0), (one * other - 0.5).clamp(-1, 1)], -1)
        x = torch.softmax(torch.maximum(x, -x).sqrt(), -1) + torch.minimum(x, x[:, :1]).abs().add(1.0).log()
        return torch.tanh(x @ self.weight)


def test_modules_may_have_these_operators(pair: Recorded, tmp_path: Path) -> None:
    bundle = export_bundle(Everything(), pair.env(), tmp_path / "mine")
    assert {node.op_type for node in onnx.load_model_from_string(bundle.policy).graph.node} == OPERATORS


class Bad(torch.nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.net = what, torch.nn.Linear(ENTRIES, KNOBS)

    def forward(self, observation: torch.Tensor) -> Any:
        if self.what == "branches" and observation.sum() > 0:
            return self.net(observation)
        if self.what == "mixes rows":
            return torch.softmax(self.net(observation), 0)
        return torch.sin(self.net(observation)) if self.what == "another operator" else self.net(observation * 0.0)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Bad("branches"), "cannot be written as ONNX: .*tensor operations alone"),
        (Bad("another operator"), "has the operator 'Sin', a policy has only"),
        (Bad("mixes rows"), "rows of a batch otherwise than each by itself"),
    ],
)
def test_modules_that_cannot_be_bundles(module: torch.nn.Module, message: str, pair: Recorded, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=message) as error:
        export_bundle(module, pair.env(), tmp_path / "mine")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


MISTAKES: dict[str, tuple[Callable[[Recorded], dict[str, Any]], str]] = {
    "too few knobs": (
        lambda pair: {"model": Tiny(3)},
        r"makes \[\(2, 3\)\] of float32 \[2, \d+\]; it must make \[\(2, 7\)\]: a knob",
    ),
    "knobs for choices": (
        lambda pair: {"model": Tiny(), "env": DiscreteChoices(pair.env())},
        r"makes \[\(2, 7\)\] .* \[\(2, 24\)\]: a choice an entry",
    ),
    "another input": (
        lambda pair: {"model": torch.nn.Linear(3, KNOBS)},
        r"cannot be called with float32 \[2, \d+\]: RuntimeError",
    ),
    "no states": (
        lambda pair: {"model": Tiny(), "state": (4,)},
        r"cannot be called with float32 \[2, \d+\], \[2, 4\]: TypeError",
    ),
    "no model": (lambda pair: {"model": "PPO"}, r"model='str' must be a model of stable-baselines3 or a torch\.nn\.Module"),
    "no policy that is known": (
        lambda pair: {"model": ARS("LinearPolicy", box(pair))},
        r"model=ARSLinearPolicy is no policy that can be exported as it is .*torch\.nn\.Module",
    ),
    "a model of other actions": (
        lambda pair: {"model": DQN("MlpPolicy", discrete(pair), buffer_size=8, policy_kwargs=dict(SMALL))},
        r"does 'Discrete\(24\)', env shows .* takes 'Box",
    ),
    "masks for knobs": (lambda pair: {"model": Tiny(), "masked": True}, "masked=True needs an env with discrete actions"),
    "masks that the model knows": (lambda pair: {"model": MODELS["SAC"](pair), "masked": True}, "says both itself"),
    "no name": (lambda pair: {"model": Tiny(), "folder": "a b"}, r"names the bundle 'a b', which must be letters"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_users_mistake_is_one_line(name: str, pair: Recorded, tmp_path: Path) -> None:
    make, message = MISTAKES[name]
    given = {"env": pair.env(), "folder": "mine"} | make(pair)
    with pytest.raises(SettingError, match=message) as error:
        export_bundle(**{**given, "folder": tmp_path / given["folder"]})
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_left_alone(pair: Recorded, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(SettingError, match="holds other files, and a bundle would replace them"):
        export_bundle(Tiny(), pair.env(), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "all of it"
