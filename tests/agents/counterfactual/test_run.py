"""A counterfactual training of a few steps: what it leaves behind, that it repeats and goes on, and that its bundle is what it chose."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from agents.bundle import Bundle
from agents.counterfactual import train
from agents.errors import BundleError
from agents.evaluation import answer_all, make_plan
from agents.gaps import VALIDATION, Bounds
from agents.learning.around import Around
from agents.learning.checkpoint import part
from agents.learning.recipe import Recipe
from agents.learning.run_folder import CHECKPOINT
from agents.learning.settings import CounterfactualSettings
from agents.onnx_policy import OPERATORS
from synera_env import Preference, PreferenceRange, SettingError, UncoveredError
from synera_env.radio import Outages
from synera_env.synera.decisions.sight import HISTORY, sight_of
from synera_env.synera.replay import SyneraReplayEnv
from tests.support.cuts import holed
from tests.support.growing import bare, growing
from tests.support.recorded import GPU, LINKS, PHONE, Recorded
from traces.synera.graph import GraphSet
from traces.synera.growing import GrowingGraphs
from traces.synera.record_models import Models
from traces.workload.generators import poisson

OWN = CounterfactualSettings(
    learning_rate=3e-3,
    hidden=8,
    answers=6,
    epochs=2,
    entropy=0.002,
    weight_decay=1.5,
    imitation=3,
    load_spread=1.0,
    loss="policy-gradient",
    future="policy",
    explore_every=1,
    explore_answers=9,
    explore_random=0.2,
)
TINY = Recipe.of("counterfactual", OWN, steps=4, validation_answers=6, validate_every=2, seed=1)


def _train(pair: Recorded, folder: Path, config: Recipe = TINY, **options: Any) -> Path:
    return train(lambda preference: pair.env(preference=preference), pair.env(), config, folder, Around(**options))


BOUNDS = Bounds({"clairvoyant": {VALIDATION: 2.0}, "informed": {VALIDATION: 1.5, "elsewhere": 0.1}})
MADE = {"Clip", "Div", "Gemm", "Max", "Min", "Softmax", "Sub", "Tanh"}
"""Operators of a policy of choices."""


@pytest.fixture(scope="module")
def finished(pair: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(pair, tmp_path_factory.mktemp("runs") / "mine", bounds=BOUNDS).parent


def _lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


def test_the_run_folder_tells_how_it_went(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == ["bundle", CHECKPOINT, "config.json", "tb", "validation.jsonl"]
    assert [line["steps"] for line in _lines(finished)] == [0, 2, 4]
    stated = json.loads((finished / "config.json").read_text())
    assert stated["algorithm"] == "counterfactual"
    assert stated["config"]["settings"]["hidden"] == 8
    assert stated["states"] > 100


def test_tensorboard_has_the_worth_of_answers_and_of_the_best_known_course(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tb"))
    events.Reload()
    values = {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert len(values["validation/reward"]) == 3
    for value, best in zip(values["counterfactual/value"], values["counterfactual/clairvoyant"], strict=True):
        assert value < best
    assert all(0 <= nats <= np.log(24) for nats in values["counterfactual/entropy"])
    assert values["counterfactual/outside"] == pytest.approx([0.0, 0.0], abs=1e-6)  # the graphs are closed


def test_tensorboard_tells_of_each_validation_and_of_what_came_of_it(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tb"), size_guidance={"histograms": 0})
    events.Reload()
    values = {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert [e.step for e in events.Scalars("story/reward")] == [0, 2, 4]
    assert values["story/reward"] == values["validation/reward"]
    stated = json.loads((finished / "config.json").read_text())
    best = stated["best_rule"]["validation_reward"]
    assert values["story/best_rule"] == pytest.approx([best] * 3)
    for name, bound in (("clairvoyant", 2.0), ("informed", 1.5)):
        closed = [(reward - best) / (bound - best) for reward in values["story/reward"]]
        assert values[f"gaps/{name}_closed"] == pytest.approx(closed, rel=1e-4)
    terms = [values[tag] for tag in values if tag.startswith("story/term_")]
    assert [sum(each) for each in zip(*terms, strict=True)] == pytest.approx(values["story/reward"], abs=1e-5)
    assert len(events.Images("pareto")) == len(events.Histograms("chosen/draft_length")) == 3
    assert values["hparam/validation_reward"] == pytest.approx([stated["validation_reward"]])
    assert "_hparams_/session_end_info" in events.summary_metadata
    assert len(list((finished / "tb").iterdir())) == 1


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        (replace(BOUNDS, plans={VALIDATION: "another"}), "found for other answers, or in another world"),
        (Bounds({"clairvoyant": {"75 ms / profile / balanced": 1.0}}), "none of a training's validation"),
        (Bounds({"oracle": {VALIDATION: 1.0}}), r"bounds=\['oracle'\] must be of clairvoyant, informed"),
    ],
)
def test_bounds_of_other_answers_are_refused(bounds: Bounds, said: str, pair: Recorded, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=said):
        _train(pair, tmp_path / "run", bounds=bounds)
    assert not (tmp_path / "run").exists()


def test_the_bundle_is_the_best_policy_of_validation_and_blind_to_history(finished: Path, pair: Recorded) -> None:
    env, bundle = pair.env(), Bundle.load(finished / "bundle")
    bundle.require(env.deployment(), Preference())
    assert bundle.meta.preferences == PreferenceRange.of(Preference())
    assert bundle.meta.provenance["validation_reward"] == max(line["reward"] for line in _lines(finished))
    controller = bundle.controller(env.schema)
    answered = answer_all(env, controller, make_plan(env, TINY.validation_answers, seed=TINY.seed))
    reward = float(np.mean([each.metrics.reward for each in answered if each.metrics]))
    assert reward == pytest.approx(bundle.meta.provenance["validation_reward"])
    assert {node.op_type for node in onnx.load_from_string(bundle.policy).graph.node} == MADE <= OPERATORS
    choices = {env.schema.action(replace(knobs, draft_ahead=1.0)).tobytes() for knobs in env.schema.choices}
    low, high = np.array(bundle.meta.seen.low), np.array(bundle.meta.seen.high)
    for name, value in HISTORY.items():
        places = env.schema.places(name)
        np.testing.assert_array_equal(low[places], np.float32(value))
        np.testing.assert_array_equal(high[places], np.float32(value))
    observation, _ = env.reset(seed=0)
    action, _ = controller.predict(observation)
    assert action.tobytes() in choices
    other = observation.copy()
    other[env.schema.places("acceptance")] = 0.0
    assert controller.predict(other)[0].tobytes() == action.tobytes()


def test_a_training_repeats_and_goes_on_from_its_checkpoint(finished: Path, pair: Recorded, tmp_path: Path) -> None:
    again = _train(pair, tmp_path / "again").parent
    policy = (finished / "bundle" / "policy.onnx").read_bytes()
    assert (again / "bundle" / "policy.onnx").read_bytes() == policy
    half = tmp_path / "half.safetensors"

    def interrupt(steps: int, unfinished: list[Path]) -> None:
        if steps == 3:  # a step after the last checkpoint
            half.write_bytes((unfinished[0] / CHECKPOINT).read_bytes())
            raise KeyboardInterrupt

    unfinished: list[Path] = []
    with pytest.raises(KeyboardInterrupt):
        _train(pair, tmp_path / "broken", on_start=unfinished.append, on_step=lambda steps: interrupt(steps, unfinished))
    torch.rand(7)  # whatever else draws
    resumed = _train(pair, tmp_path / "resumed", resume=half).parent
    assert (resumed / "bundle" / "policy.onnx").read_bytes() == policy
    assert [line["steps"] for line in _lines(resumed)] == [4]


def test_a_checkpoint_of_another_training_or_none_is_refused(finished: Path, pair: Recorded, tmp_path: Path) -> None:
    for config, said in (
        (replace(TINY, settings=replace(OWN, hidden=9)), "hidden=8, not 9"),
        (replace(TINY, steps=5), "steps=4, not 5"),
    ):
        with pytest.raises(SettingError, match=f"training with {said}"):
            _train(pair, tmp_path / "run", config, resume=finished / CHECKPOINT)
    (tmp_path / "damaged").write_bytes((finished / CHECKPOINT).read_bytes()[:200])
    for name in ("damaged", "missing"):
        with pytest.raises(SettingError, match=f"no checkpoint that can be gone on from at .*{name}"):
            _train(pair, tmp_path / "run", resume=tmp_path / name)


def test_one_policy_for_all_preferences(pair: Recorded, tmp_path: Path) -> None:
    config = replace(
        TINY, steps=1, preference="sampled", settings=replace(OWN, load_spread=3.0, loss="policy-gradient", future="policy")
    )
    meta = Bundle.load(_train(pair, tmp_path / "all", config)).meta
    assert meta.preferences == PreferenceRange.of(None)
    places = pair.env().schema.places("weight_latency")
    assert np.array(meta.seen.high)[places] - np.array(meta.seen.low)[places] > 0.3  # decades


def test_holes_are_trained_around(pair: Recorded, tmp_path: Path) -> None:
    graphs = holed(pair.graphs, 0.05, seed=1, from_depth=6)
    made = SyneraReplayEnv(graphs, LINKS, preference=Preference())
    bundle = train(lambda preference: made, pair.env(), replace(TINY, steps=2), tmp_path / "holes")
    assert np.isfinite(Bundle.load(bundle).meta.provenance["validation_reward"])


def test_validation_that_keeps_no_answer_stops_the_training(pair: Recorded, tmp_path: Path) -> None:
    nothing = SyneraReplayEnv(holed(pair.graphs, 1.0, from_depth=5), LINKS)
    with pytest.raises(UncoveredError, match="no validation answer stays inside"):
        train(lambda preference: pair.env(preference=preference), nothing, TINY, tmp_path / "run")


# ---------------------------------------------------------------- graphs that grow


@pytest.fixture(scope="module")
def models(pair: Recorded) -> Models:
    return Models.load(pair.slm, pair.llm)


def _train_growing(
    pair: Recorded, models: Models, seed: GraphSet, folder: Path, config: Recipe = TINY, **options: Any
) -> tuple[Path, GrowingGraphs]:
    grown = growing(models, seed, pair.score)

    def make_env(preference: Preference | None) -> SyneraReplayEnv:
        return SyneraReplayEnv(grown, LINKS, PHONE, GPU, preference, Outages.never())

    return train(make_env, pair.env(), config, folder, Around(**options)).parent, grown


def test_graphs_of_which_nothing_is_left_to_know_train_as_recorded_ones(
    finished: Path, pair: Recorded, models: Models, tmp_path: Path
) -> None:
    """Exploration takes nothing from the draws of the training, and leaves its weights alone."""
    run, grown = _train_growing(pair, models, pair.graphs, tmp_path / "mine", bounds=BOUNDS)
    assert grown.growth.nodes_run == 0
    np.testing.assert_array_equal(_weights(run / CHECKPOINT, "net."), _weights(finished / CHECKPOINT, "net."))


def test_a_training_that_never_explores_is_over_what_was_recorded(pair: Recorded, models: Models, tmp_path: Path) -> None:
    seed = holed(pair.graphs, 0.05, seed=1, from_depth=6)
    config = replace(TINY, settings=replace(OWN, explore_every=0))
    run, grown = _train_growing(pair, models, seed, tmp_path / "never", config)
    assert grown.growth.nodes_run == 0
    made = SyneraReplayEnv(seed, LINKS, PHONE, GPU, Preference(), Outages.never())
    recorded = train(lambda preference: made, pair.env(), TINY, tmp_path / "recorded")
    np.testing.assert_array_equal(_weights(run / CHECKPOINT, "net."), _weights(recorded.parent / CHECKPOINT, "net."))


def test_of_prompts_alone_a_training_finds_out_what_it_needs(pair: Recorded, models: Models, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, grown = _train_growing(pair, models, bare(pair.graphs), tmp_path / "bare", replace(TINY, validate_every=1))
    stated = json.loads((run / "config.json").read_text())
    assert stated["states"] == 0
    assert stated["growth"]["nodes"] == grown.nodes > 100
    known = SyneraReplayEnv(grown.known(), LINKS, PHONE, GPU)
    assert stated["growth"]["states"] == len(sight_of(known).work.process.states.node)
    events = EventAccumulator(str(run / "tb"))
    events.Reload()
    values = {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert [e.step for e in events.Scalars("growth/nodes")] == [0, 1, 2, 3, 4]
    assert values["growth/nodes"] == sorted(values["growth/nodes"])
    assert values["growth/states"][-1] == stated["growth"]["states"] > values["growth/states"][0] > 0
    assert values["growth/nodes"][0] == values["growth/new_nodes"][0] + len(pair.graphs)
    assert values["counterfactual/outside"][-1] < values["counterfactual/outside"][0]


def test_prompts_alone_that_are_never_explored_are_refused(pair: Recorded, models: Models, tmp_path: Path) -> None:
    config = replace(TINY, settings=replace(OWN, explore_every=0))
    with pytest.raises(
        SettingError, match="of none of the 6 prompts an answer was recorded, and explore_every=0 never explores"
    ):
        _train_growing(pair, models, bare(pair.graphs), tmp_path / "run", config)


def test_a_training_on_growing_graphs_goes_on_by_what_they_had_grown_to(pair: Recorded, models: Models, tmp_path: Path) -> None:
    config = replace(TINY, settings=replace(OWN, explore_every=2))
    whole, _ = _train_growing(pair, models, bare(pair.graphs), tmp_path / "whole", config)
    parts: list[Path] = []
    half, grown_to = tmp_path / "half.safetensors", tmp_path / "grown.safetensors"

    def interrupt(steps: int) -> None:
        if steps == 3:
            half.write_bytes((parts[0] / CHECKPOINT).read_bytes())
            raise KeyboardInterrupt

    grown = growing(models, bare(pair.graphs), pair.score)

    def make_env(preference: Preference | None) -> SyneraReplayEnv:
        return SyneraReplayEnv(grown, LINKS, PHONE, GPU, preference, Outages.never())

    def judged(steps: int, found: Any) -> None:
        grown.save(grown_to) if steps == 2 else None

    watched = Around(on_start=parts.append, on_step=interrupt, on_judged=judged)
    with pytest.raises(KeyboardInterrupt):
        train(make_env, pair.env(), config, tmp_path / "broken", watched)
    seed = GraphSet.load(grown_to)
    resumed, _ = _train_growing(pair, models, seed, tmp_path / "resumed", config, resume=half)
    assert _weights(resumed / CHECKPOINT, "net.") == pytest.approx(_weights(whole / CHECKPOINT, "net."), rel=1e-3, abs=1e-5)
    # Without them it explores anew: there is nothing else to learn of.
    anew, explored = _train_growing(pair, models, bare(pair.graphs), tmp_path / "anew", config, resume=half)
    assert explored.growth.nodes_run > 100
    assert [line["steps"] for line in _lines(anew)] == [4]


def _weights(checkpoint: Path, prefix: str) -> NDArray[np.float32]:
    weights = part(load_file(checkpoint), prefix)
    return np.concatenate([weights[name].ravel() for name in sorted(weights)])


def test_worlds_that_it_cannot_know_are_refused(pair: Recorded, tmp_path: Path) -> None:
    busy = SyneraReplayEnv(pair.graphs, LINKS, preference=Preference(), cloud_load=poisson(2.0, 30.0))
    with pytest.raises(SettingError, match="leave out --workload"):
        train(lambda preference: busy, pair.env(), TINY, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_policy_of_operators_that_no_bundle_has_is_refused(pair: Recorded, tmp_path: Path) -> None:
    from agents.bundle import Seen, Training
    from agents.export import export_module

    class Wild(torch.nn.Module):
        def forward(self, observation: torch.Tensor) -> torch.Tensor:
            return torch.sin(observation[:, :7])

    class Controller:
        def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[Any, None]:
            return np.sin(np.asarray(observation)[..., :7]), None

    env = pair.env()
    training = Training("wild", env.preferences, Seen((0.0,), (1.0,)), {})
    with pytest.raises(BundleError, match="operator"):
        export_module(Wild(), Controller(), env, training, tmp_path / "bundle")
