"""A training run of a few hundred steps: what it leaves behind, that it repeats, and that what it exports is what it chose."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from agents import networks
from agents.bundle import Bundle, BundleError
from agents.evaluation import Answered, answer, evaluate, make_plan
from agents.learning import judge
from agents.learning import run as running
from agents.learning.around import Around
from agents.learning.recipe import Recipe
from agents.learning.run import train
from agents.rules import RandomRule
from synera_env import EpisodeMetrics, Preference, PreferenceRange, SettingError, UncoveredError, synera_schema
from synera_env.reward import named_preferences
from tests.support.recorded import TINY_PPO, TINY_RUN, Recorded

SCHEMA = synera_schema(2)


def _lines(run: Path) -> list[dict[str, Any]]:
    """But for the seconds, which are another's each time."""
    lines = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    assert all(line.pop("seconds") >= 0 for line in lines)
    return lines


def _events(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert len(list((run / "tb").iterdir())) == 1  # of one training
    events = EventAccumulator(str(run / "tb"))
    events.Reload()
    return events


def test_the_run_folder_tells_how_it_was_made(run: Path, pair: Recorded) -> None:
    assert sorted(p.name for p in run.iterdir()) == [
        "bundle",
        "checkpoint.safetensors",
        "config.json",
        "tb",
        "validation.jsonl",
    ]
    stated = json.loads((run / "config.json").read_text())
    assert Recipe.stated(stated["config"]) == TINY_RUN
    assert stated["system"] == "synera"
    assert (stated["train"]["prompts"], stated["train"]["split"]) == (6, "test")
    assert stated["train"]["device_profile"] == "test phone"
    assert stated["train"]["llm_fingerprint"] == pair.graphs.meta.llm_fingerprint
    assert {"torch", "stable-baselines3", "gymnasium", "numpy"} <= set(stated["versions"])


def test_tensorboard_shows_every_metric_term_and_knob(run: Path) -> None:
    events = _events(run)
    tags = set(events.Tags()["scalars"])
    assert {f"knobs/{row.name}" for row in SCHEMA.rows} <= tags
    assert {f"reward_terms/{n}" for n in ("quality", "latency", "cost", "energy", "traffic")} <= tags
    assert {f"episode/{f.name}" for f in fields(EpisodeMetrics)} | {"episode/uncovered_rate"} <= tags
    assert {"validation/reward", "validation/quality", "validation/uncovered_rate"} <= tags
    rewards = events.Scalars("episode/reward")
    assert [e.step for e in rewards] == sorted({e.step for e in rewards})
    terms = sum(events.Scalars(f"reward_terms/{n}")[0].value for n in ("quality", "latency", "cost", "energy", "traffic"))
    assert terms == pytest.approx(rewards[0].value, abs=0.05)  # terms of answers still under way are in the sum too
    assert all(0 <= e.value <= 1 for e in events.Scalars("episode/offload_rate"))
    assert all(e.value == 0 for e in events.Scalars("episode/uncovered_rate"))


def test_tensorboard_says_how_the_run_is_configured(run: Path) -> None:
    (text,) = _events(run).Tensors("run/configuration/text_summary")
    said = text.tensor_proto.string_val[0].decode().replace("\\", "")
    assert text.step == 0
    assert f"| config.settings.rollout | {TINY_PPO.rollout} |" in said
    assert f"| train.llm_fingerprint | {json.loads((run / 'config.json').read_text())['train']['llm_fingerprint']} |" in said


def test_validation_happens_before_training_as_often_as_asked_and_at_the_end(run: Path) -> None:
    """Each is of the weights after so many steps, not of those that the steps were made with."""
    assert [line["steps"] for line in _lines(run)] == [0, 128, 256, 384]
    assert all(0 <= line["quality"] <= 1 for line in _lines(run))


@pytest.mark.parametrize("name", ["reward", "quality", "uncovered_rate"])
def test_every_validation_reaches_tensorboard_the_last_one_too(run: Path, name: str) -> None:
    shown = _events(run).Scalars(f"validation/{name}")
    written = [(line["steps"], pytest.approx(line[name])) for line in _lines(run)]
    assert [(event.step, event.value) for event in shown] == written


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


def _train(pair: Recorded, folder: Path, monkeypatch: pytest.MonkeyPatch, config: Recipe, *, fails: bool = False) -> Any:
    """Train up to the export, which leaves no bundle, or fails; return the model as trained."""
    held: list[Any] = []

    def capture(model: Any, *_: object, **__: object) -> None:
        held.append(model)
        if fails:
            raise Captured

    with monkeypatch.context() as patched:
        patched.setattr(running, "export_bundle", capture)
        try:
            train(lambda preference: pair.env(preference=preference), pair.env(), config, folder)
        except Captured:
            assert fails
    return held[0]


def test_the_bundle_acts_as_the_trained_policy(
    pair: Recorded, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is repeated from its seed; stable-baselines3's own model and the bundle of the first run are handed the same raw rows."""
    trained = _train(pair, tmp_path / "again", monkeypatch, TINY_RUN)
    assert isinstance(trained, PPO)
    loaded = Bundle.load(run / "bundle").controller(SCHEMA)
    rows = np.random.default_rng(3).uniform(SCHEMA.low, SCHEMA.high, (1000, len(SCHEMA.low)))
    wanted, _ = trained.predict(rows.astype(np.float32), deterministic=True)
    np.testing.assert_allclose(loaded.predict(rows)[0], wanted, atol=1e-5, rtol=0)
    assert wanted.std(0).max() > 1e-3  # not a constant
    for row in rows[:20]:
        one, _ = trained.predict(row.astype(np.float32), deterministic=True)
        np.testing.assert_allclose(loaded.predict(row)[0], one, atol=1e-5, rtol=0)


def test_what_training_met_is_stated_as_the_exported_weights_met_it(pair: Recorded, tmp_path: Path) -> None:
    class Watching(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.met: list[Any] = []

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            self.met.append(self.model.rollout_buffer.observations.reshape(-1, len(SCHEMA.low)).copy())

    watching = Watching()
    bundle = train(lambda p: pair.env(preference=p), pair.env(), TINY_RUN, tmp_path / "run", Around(callback=watching))
    meta = Bundle.load(bundle).meta
    rollouts = meta.provenance["best_steps"] // (TINY_RUN.envs * TINY_PPO.rollout)
    met = np.concatenate(watching.met[:rollouts]) if rollouts else np.stack([SCHEMA.low, SCHEMA.high])
    np.testing.assert_array_equal(np.array(meta.seen.low, np.float32), met.min(0))
    np.testing.assert_array_equal(np.array(meta.seen.high, np.float32), met.max(0))


def test_a_seed_fixes_the_weights(pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TINY_RUN, steps=128, validation_answers=2)
    models = [_train(pair, tmp_path / str(i), monkeypatch, replace(config, seed=seed)) for i, seed in enumerate((0, 0, 1))]
    one, same, other = (torch.cat([w.flatten() for w in m.policy.state_dict().values()]) for m in models)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# ---------------------------------------------------------------- the run folder


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_second_run_into_the_same_folder_keeps_nothing_of_the_first(
    pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = replace(TINY_RUN, steps=128, validation_answers=2), tmp_path / "run"
    _train(pair, folder, monkeypatch, config)
    first, events = _lines(folder), {p.name for p in (folder / "tb").iterdir()}
    (folder / "stale").write_text("from an earlier version")
    _train(pair, folder, monkeypatch, config)
    assert _lines(folder) == first
    assert len(_events(folder).Scalars("validation/reward")) == len(first)
    assert not events & {p.name for p in (folder / "tb").iterdir()}
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert not (folder / "stale").exists()


@pytest.mark.parametrize("ending", ["the export", "ctrl-c", "validation"])
def test_a_training_that_fails_leaves_the_run_before_it_as_it_was(
    pair: Recorded, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    class Interrupts(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps > 150 and ending == "ctrl-c":
                raise KeyboardInterrupt
            return True

    folder = Path(shutil.copytree(run, tmp_path / "run"))
    before, started = _content(folder), []
    raised: type[BaseException] = KeyboardInterrupt
    if ending == "the export":
        raised = BundleError
        monkeypatch.setattr(networks._Latent, "forward", lambda self, features: self.extractor.forward_actor(features) * 0.9)
    if ending == "validation":
        raised = UncoveredError

        def uncovered(rows: Any, controller: Any, plan: Any) -> list[Answered]:
            return [Answered(planned.prompt, "", None, (), ()) for planned in plan]

        monkeypatch.setattr(judge.Rows, "answers", uncovered)
        monkeypatch.setattr(running, "best_rival", lambda *_: None)
    around = Around(callback=Interrupts(), on_start=started.append)
    with pytest.raises(raised):
        train(lambda p: pair.env(preference=p), pair.env(), TINY_RUN, folder, around)
    assert _content(folder) == before
    (unfinished,) = started
    assert {p.name for p in tmp_path.iterdir()} == {"run", unfinished.name}
    assert unfinished.name.startswith("run.part-")
    assert json.loads((unfinished / "config.json").read_text())["algorithm"] == "ppo"
    assert not (unfinished / "bundle").exists()
    if ending == "ctrl-c":
        assert len(_events(unfinished).Scalars("validation/reward")) == 2


@pytest.mark.parametrize("name", ["..", ".hidden", "a b", "a\nb", "ü", "x" * 81, ""])
def test_a_name_that_a_run_cannot_have_is_refused_before_any_work(pair: Recorded, tmp_path: Path, name: str) -> None:
    def never(_: Any) -> Any:
        raise AssertionError("an environment was made")

    with pytest.raises(SettingError, match="must be letters, digits and"):
        train(never, pair.env(), TINY_RUN, tmp_path / name if name else Path())
    assert not list(tmp_path.iterdir())


def test_training_and_validation_of_two_pairs_are_refused(
    pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = pair.env()
    other = replace(here.deployment(), fingerprints={**here.deployment().fingerprints, "slm": "other"})
    monkeypatch.setattr(here, "deployment", lambda: other)
    with pytest.raises(SettingError, match=r"of different models: the slm \w+ there, other here"):
        train(lambda p: pair.env(preference=p), here, TINY_RUN, tmp_path / "run")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- validation


@pytest.mark.parametrize(
    ("validated", "rewards", "best"),
    [
        # Averaged over what is left of their answers alone, the second weights would win: they lost too many.
        ([(0.6, 0.6, 0.6, 0.6), (0.9, None, None, None), (0.6, 0.6, 0.6, 0.61)], [0.6, 0.9, 0.6025], 256),
        # One answer is lost, and stood for by the others: counted as nothing earned it would undo what was learned.
        ([(0.6, 0.6, 0.6, 0.6), (0.7, 0.7, 0.7, None), (0.6, 0.6, 0.6, 0.6)], [0.6, 0.7, 0.6], 128),
        # Weights that lose everything for once do not end a training.
        ([(0.6, 0.6, 0.6, 0.6), (None, None, None, None), (0.5, 0.5, 0.5, 0.5)], [0.6, None, 0.5], 0),
        # What lost too much is kept only until there are others.
        ([(0.9, None, None, None), (0.1, 0.1, 0.1, 0.1), (0.8, None, None, None)], [0.9, 0.1, 0.8], 128),
    ],
)
def test_weights_are_kept_for_what_they_earn_where_answers_are_lost(
    pair: Recorded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    validated: list[tuple[float | None, ...]],
    rewards: list[float | None],
    best: int,
) -> None:
    env = pair.env()
    plan = make_plan(env, 4)
    good = answer(env, RandomRule(SCHEMA), plan[0]).metrics
    assert good is not None
    waiting = iter(
        [
            Answered(planned.prompt, "", None if reward is None else replace(good, reward=reward, quality=reward), (), ())
            for planned, reward in zip(plan, found, strict=True)
        ]
        for found in validated
    )
    monkeypatch.setattr(judge.Rows, "answers", lambda *_: next(waiting))
    monkeypatch.setattr(running, "best_rival", lambda *_: None)
    config = replace(TINY_RUN, steps=256, validation_answers=4, validate_every=128)
    held = []
    monkeypatch.setattr(running, "export_bundle", lambda *_, training: held.append(training))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(lambda p: pair.env(preference=p), env, config, tmp_path / "run")
    lines = _lines(tmp_path / "run")
    assert [line.get("reward") for line in lines] == [None if r is None else pytest.approx(r) for r in rewards]
    assert [line.get("quality") for line in lines] == [None if r is None else pytest.approx(r) for r in rewards]
    assert [line["uncovered_rate"] for line in lines] == [found.count(None) / 4 for found in validated]
    assert held[0].provenance["best_steps"] == best
    assert held[0].provenance["validation_reward"] == pytest.approx(rewards[best // 128])


@pytest.mark.parametrize("preference", ["default", "sampled", "quality"])
def test_preferences_are_the_default_or_drawn_or_of_a_name_and_the_bundle_says_which(
    pair: Recorded, tmp_path: Path, preference: str
) -> None:
    seen = []

    def make_env(wanted: Any) -> Any:
        seen.append(wanted)
        return pair.env(preference=wanted)

    config = replace(TINY_RUN, steps=128, validation_answers=2, preference=preference)
    meta = Bundle.load(train(make_env, pair.env(), config, tmp_path / "run")).meta
    assert {w is None for w in seen} == {preference == "sampled"}
    weights = {"default": Preference(), "sampled": None, "quality": named_preferences()["quality"]}[preference]
    assert meta.preferences == PreferenceRange.of(weights)


WRONG = [
    {"preference": "mine"},
    {"stop_when": "bored"},
    {"agent": "ppo2"},
    *(
        {name: value}
        for name in ("steps", "envs", "validation_answers", "validate_every", "patience")
        for value in (0, -1, 1.5, True)
    ),
    *({"seconds": value} for value in (0, -1.0, True, float("inf"), float("nan"))),
    {"envs": 10**9},
    *({"seed": value} for value in (-1, 2**32, 0.5)),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_recipe_shows_the_value(wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(SettingError, match=f"{name}={re.escape(repr(value))}"):
        replace(TINY_RUN, **wrong)


def test_a_rollout_of_one_step_cannot_be_learned_from() -> None:
    one = replace(TINY_PPO, rollout=1, minibatch=2)
    with pytest.raises(SettingError, match=r"envs \* rollout = 1: an update of ppo is over at least 2 steps"):
        Recipe.of("ppo", one, envs=1)
    Recipe.of("ppo", replace(one, rollout=2), envs=1)
