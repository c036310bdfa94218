"""A training run of a few hundred steps: what it leaves behind, that it repeats, and that what it exports is what it chose."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import export, learned
from agents.bundle import Bundle, BundleError
from agents.evaluation import evaluate, make_plan
from agents.learned import LearnedController, PPOConfig, train_ppo
from synera_env import synera_schema
from tests.support.recorded import TINY_RUN, Recorded

SCHEMA = synera_schema(2)


def _lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


def test_the_run_folder_tells_how_it_was_made(run: Path, pair: Recorded) -> None:
    assert sorted(p.name for p in run.iterdir()) == ["bundle", "config.json", "tb", "validation.jsonl"]
    stated = json.loads((run / "config.json").read_text())
    assert PPOConfig(**stated["config"]) == TINY_RUN
    assert stated["system"] == "synera"
    assert (stated["train"]["prompts"], stated["train"]["split"]) == (6, "test")
    assert stated["train"]["device_profile"] == "test phone"
    assert stated["train"]["llm_fingerprint"] == pair.graphs.meta.llm_fingerprint
    assert {"torch", "stable-baselines3", "gymnasium", "numpy"} <= set(stated["versions"])


def test_tensorboard_shows_every_metric_term_and_knob(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tb"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {f"knobs/{row.name}" for row in SCHEMA.rows} <= tags
    assert {f"reward_terms/{n}" for n in ("quality", "latency", "cost", "energy", "traffic")} <= tags
    assert {f"episode/{n}" for n in ("reward", "quality", "offload_rate", "seconds", "ttft_seconds", "uncovered_rate")} <= tags
    assert {"validation/reward", "validation/quality"} <= tags
    rewards = events.Scalars("episode/reward")
    assert [e.step for e in rewards] == sorted({e.step for e in rewards})
    terms = sum(events.Scalars(f"reward_terms/{n}")[0].value for n in ("quality", "latency", "cost", "energy", "traffic"))
    assert terms == pytest.approx(rewards[0].value, abs=0.05)  # terms of answers still under way are in the sum too
    assert all(0 <= e.value <= 1 for e in events.Scalars("episode/offload_rate"))
    assert all(e.value == 0 for e in events.Scalars("episode/uncovered_rate"))


def test_validation_happens_as_often_as_asked_and_at_the_end(run: Path) -> None:
    steps = [line["steps"] for line in _lines(run)]
    assert steps == sorted(steps)
    assert set(steps) == {128, 256, 384}
    assert all(0 <= line["quality"] <= 1 for line in _lines(run))


def test_what_is_exported_is_what_validated_best(run: Path, pair: Recorded) -> None:
    """Weights and observation statistics of the same moment, or the bundle would not score what was measured."""
    best = max(_lines(run), key=lambda line: line["reward"])
    loaded = Bundle.load(run / "bundle").controller(SCHEMA)
    assert loaded.meta.provenance["best_steps"] == best["steps"]
    assert loaded.meta.provenance["validation_reward"] == pytest.approx(best["reward"])
    env = pair.env()
    episodes = evaluate(env, loaded, make_plan(env, TINY_RUN.validation_answers, seed=TINY_RUN.seed))
    assert np.mean([e.reward for e in episodes]) == pytest.approx(best["reward"], abs=1e-6)


class Captured(Exception):
    pass


def _train(pair: Recorded, folder: Path, monkeypatch: pytest.MonkeyPatch, config: PPOConfig) -> tuple[Any, LearnedController]:
    """Train up to the export; return the policy and the controller as trained."""
    held: list[Any] = []

    def capture(policy: Any, normaliser: Any, controller: LearnedController, *_: object) -> None:
        held.extend([policy, controller])
        raise Captured

    with monkeypatch.context() as patched:
        patched.setattr(learned, "export_policy", capture)
        with pytest.raises(Captured):
            train_ppo(lambda preference: pair.env(preference=preference), pair.env(), config, folder)
    return held[0], held[1]


def test_the_bundle_acts_as_the_trained_policy(
    pair: Recorded, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is repeated from its seed; its policy is compared with the bundle of the first one."""
    _, trained = _train(pair, tmp_path / "again", monkeypatch, TINY_RUN)
    loaded = Bundle.load(run / "bundle").controller(SCHEMA)
    rows = np.random.default_rng(3).uniform(SCHEMA.low, SCHEMA.high, (1000, len(SCHEMA.low)))
    wanted, _ = trained.predict(rows.astype(np.float32), deterministic=True)
    np.testing.assert_allclose(loaded.predict(rows)[0], wanted, atol=1e-5, rtol=0)
    assert wanted.std(0).max() > 1e-3  # not a constant
    for row in rows[:20]:
        one, _ = trained.predict(row.astype(np.float32), deterministic=True)
        np.testing.assert_allclose(loaded.predict(row)[0], one, atol=1e-5, rtol=0)


def test_a_seed_fixes_the_weights(pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TINY_RUN, steps=128, validation_answers=2)
    policies = [_train(pair, tmp_path / str(i), monkeypatch, replace(config, seed=seed))[0] for i, seed in enumerate((0, 0, 1))]
    one, same, other = (torch.cat([w.flatten() for w in p.state_dict().values()]) for p in policies)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_second_run_into_the_same_folder_keeps_nothing_of_the_first(
    pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TINY_RUN, steps=128, validation_answers=2)
    _train(pair, tmp_path / "run", monkeypatch, config)
    first = _lines(tmp_path / "run")
    _train(pair, tmp_path / "run", monkeypatch, config)
    assert _lines(tmp_path / "run") == first


def test_a_policy_that_is_exported_wrong_leaves_no_bundle(
    pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(self: Any, observation: torch.Tensor) -> torch.Tensor:
        return self.head(self.latent(observation)) * 0.9 + 0.01

    monkeypatch.setattr(export.Actor, "forward", off)
    with pytest.raises(BundleError, match="differs"):
        train_ppo(
            lambda p: pair.env(preference=p), pair.env(), replace(TINY_RUN, steps=128, validation_answers=2), tmp_path / "run"
        )
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.json", "tb", "validation.jsonl"]


@pytest.mark.parametrize("preference", ["default", "sampled"])
def test_preferences_are_the_default_or_drawn(
    pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preference: str
) -> None:
    seen = []

    def make_env(wanted: Any) -> Any:
        seen.append(wanted)
        return pair.env(preference=wanted)

    monkeypatch.setattr(learned, "export_policy", lambda *_: None)
    config = replace(TINY_RUN, steps=128, validation_answers=2, preference=preference)
    train_ppo(make_env, pair.env(), config, tmp_path / "run")
    assert {w is None for w in seen[-TINY_RUN.envs :]} == {preference == "sampled"}


@pytest.mark.parametrize("wrong", [{"preference": "mine"}, {"steps": 0}, {"envs": 0}, {"hidden": -1}])
def test_a_wrong_configuration_shows_the_value(wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        PPOConfig(**wrong)
