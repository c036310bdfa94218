"""`synera evaluate`: whom it compares under which name, on which answers, and what it writes; and its ablation."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents import tuning
from agents.ablation import CRITERIA, RANDOM, Curve, Point
from agents.base import Controller
from agents.bundle import Bundle
from agents.comparison import Estimate
from agents.evaluation import Answered, PlannedAnswer, answer_all
from agents.registry import controller
from agents.rules import FixedRule, LevelRule
from agents.signals import Signal, Signals
from runtime.errors import SettingError, UncoveredError
from scripts import _ablation, _over_scenarios, _report, _utility, evaluate
from scripts._ablation import AblationFile, worth_deploying
from scripts._contestants import distinct_names
from scripts._evaluation import Evaluation
from scripts.evaluate import Arguments
from synera_env import DecisionEnv, Preference, SyneraReplayEnv, mixes
from synera_env.radio import Outages
from tests.support.recorded import GPU, PHONE, Recorded, recorded, trained
from traces.errors import TraceError
from traces.schemas import read_json
from traces.workload.generators import Lengths, poisson
from traces.workload.store import save_workload

RULES = ("never", "always", "threshold", "random")


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture
def files(tiny_llm: Path, pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: graphs, profiles, and copies of one bundle in places of their own."""
    monkeypatch.chdir(tmp_path)
    pair.graphs.save(tmp_path / "test.safetensors")
    PHONE.save(tmp_path / "phone.json")
    GPU.save(tmp_path / "gpu.json")
    for place in ("one/mine", "two/mine", "never", "$x_"):
        shutil.copytree(trained(tiny_llm) / "bundle", tmp_path / place / "bundle")
    return tmp_path


def arguments(**more: Any) -> Arguments:
    world = {"graphs": Path("test.safetensors"), "device_profile": Path("phone.json"), "cloud_profile": Path("gpu.json")}
    return Arguments(**world | {"answers": 6, "json": Path("out.json")} | more)


def evaluated(**more: Any) -> Evaluation:
    evaluate.main(arguments(**more))
    return read_json("out.json", Evaluation, "no figures")


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/mine/bundle"], ["mine"]),
        (["runs/mine"], ["mine"]),
        (["a/run/bundle", "b/run/bundle"], ["a/run", "b/run"]),
        (["a/run/bundle", "b/run/bundle", "b/other"], ["a/run", "b/run", "other"]),
        (["x/a/run/bundle", "y/a/run/bundle", "b/run"], ["x/a/run", "y/a/run", "b/run"]),
        (["runs/never/bundle"], ["runs/never"]),
        (["mine/bundle", "./mine/../mine/bundle", "mine/"], ["mine"]),
        (["runs/best fixed/bundle"], ["runs/best fixed"]),
    ],
)
def test_bundles_are_named_by_the_shortest_path_that_tells_them_apart(
    paths: list[str], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w").mkdir()
    monkeypatch.chdir(tmp_path / "w")
    found = distinct_names(map(Path, paths), {*RULES, "best fixed"})
    assert list(found) == names
    assert [found[name] for name in names] == [Path(path) for path in paths[: len(names)]]


def test_same_named_bundles_and_one_named_like_a_rule_all_count(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundles = (Path("one/mine/bundle"), Path("two/mine"), Path("two/mine/bundle"), Path("never/bundle"))
    shutil.copytree("one/mine/bundle", "two/mine", dirs_exist_ok=True)
    found = evaluated(bundle=bundles)
    assert {"one/mine", "two/mine", f"{files.name}/never", *RULES} == set(found.controllers)
    assert found.controllers["one/mine"].bundle == "one/mine/bundle"
    assert found.controllers["never"].bundle is None
    assert found.controllers["one/mine"].means["quality"] != found.controllers["never"].means["quality"]
    said = capsys.readouterr().out
    assert "reward of one/mine minus threshold, same plan" in said
    assert "reward of two/mine minus threshold, same plan" in said
    assert "next: synera serve\n      synera deploy --controller " in said


def test_a_name_that_means_something_to_others_is_only_a_name(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To a shell, to the console's markup, and to the picture's formulas."""
    Path("$x_").rename("$_{ [bold] $y")
    evaluated(bundle=(Path("$_{ [bold] $y/bundle"),), picture=Path("p.svg"))
    said = capsys.readouterr().out
    assert "│ $_{ [bold] $y " in said
    assert "--controller '$_{ [bold] $y/bundle'" in said
    assert Path("p.svg").stat().st_size > 1000


# ---------------------------------------------------------------- which answers


def losing(name: str, lost: set[int]) -> Any:
    """An `answer_all` that leaves the graphs at some places of the plan with one controller, which is a bit better for it."""

    def answered(env: DecisionEnv, controller: Controller, plan: Sequence[PlannedAnswer]) -> list[Answered]:
        known = evaluate.rules(env.schema).items()
        who = next((rule for rule, each in known if repr_of(each) == repr_of(controller)), "a bundle")
        found = answer_all(env, controller, plan)
        return [replace(a, metrics=None) if who == name and place in lost else a for place, a in enumerate(found)]

    return answered


def repr_of(controller: Controller) -> str:
    return str(vars(controller)) if isinstance(controller, FixedRule) else type(controller).__name__


def test_a_controller_is_judged_on_the_answers_that_it_keeps(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = evaluated()
    assert whole.planned_answers == 6
    assert "left the recorded graphs" not in capsys.readouterr().out
    monkeypatch.setattr(evaluate, "answer_all", losing("always", {0, 3, 4}))
    with pytest.warns(UserWarning, match="what is said of always rests on 50% of the answers, to 3 of 6 prompts"):
        found = evaluated()
    assert found.planned_answers == 6
    assert found.controllers["always"].uncovered_rate == 0.5
    assert found.controllers["always"].covered_answers == 3
    assert found.controllers["always"].means != whole.controllers["always"].means
    for name in {*RULES} - {"always"}:  # what one loses takes nothing from the others
        assert found.controllers[name] == whole.controllers[name]
    said = capsys.readouterr().out
    assert (
        "answers that left the recorded graphs (column uncovered) are stood for by those kept, of the same controller" in said
    )
    assert "replay, 6 answers to 6 test prompts" in said
    (row,) = (line for line in said.splitlines() if line.startswith("│ always"))
    (heads,) = (line for line in said.splitlines() if "uncovered" in line and "controller" in line and "TTFT" in line)
    column = [cell.strip() for cell in re.split("[┃│]", heads)].index("uncovered")
    assert [cell.strip() for cell in row.split("│")][column] == "0.500"


def test_a_controller_that_loses_all_is_named_and_the_others_are_judged(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "answer_all", losing("threshold", set(range(6))))
    found = evaluated(bundle=(Path("one/mine/bundle"),))
    assert (found.controllers["threshold"].uncovered_rate, found.controllers["threshold"].means) == (1.0, {})
    assert found.controllers["mine"].reward_minus == {}, "it is what a bundle is held against"
    said = capsys.readouterr().out
    assert "threshold keeps none of its 6 answers; nothing can be said of it" in said
    assert not [line for line in said.splitlines() if line.startswith("│ threshold")]
    assert "│ always" in said


def test_no_answer_of_any_is_said_and_nothing_written(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "answer_all", lambda *given: [replace(a, metrics=None) for a in answer_all(*given)])
    with pytest.raises(UncoveredError, match="no answer of any controller stays inside the recorded graphs; record"):
        evaluate.main(arguments())
    assert not Path("out.json").exists()
    assert not Path("runs").exists()


def test_a_table_of_two_worlds_has_no_column_for_what_only_replay_can_lose() -> None:
    """It would not fit, and the demo's graphs are whole."""
    summary = {key: 0.5 for _, key, *_ in (*_report._COLUMNS, _report._UNCOVERED)} | {"reward_low": 0.0, "reward_high": 1.0}
    one, two = ({"never": dict.fromkeys(worlds, summary)} for worlds in (("replay",), ("replay", "live")))
    heads = [[column.header for column in _report.table(each, "x").columns] for each in (one, two)]
    assert heads[0] == [*heads[1], "uncovered"]


# ---------------------------------------------------------------- what it writes


def test_the_figures_have_a_schema(files: Path) -> None:
    found = evaluated(bundle=(Path("one/mine/bundle"),), seed=3)
    assert (found.graphs, found.split, found.seed, found.format_version) == ("test.safetensors", "test", 3, 3)
    for name, result in found.controllers.items():
        means = result.means
        assert {"quality", "reward", "seconds", "ttft_seconds", "offload_rate", "lost_chunks"} <= set(means)
        for what in ("quality", "reward"):
            low, mean, high = (means[f"{what}{end}"] for end in ("_low", "", "_high"))
            assert low is not None
            assert mean is not None
            assert high is not None
            assert low <= mean <= high
        assert set(result.reward_minus) == ({"threshold"} if name == "mine" else set())
    assert found.controllers["never"].means["acceptance_rate"] is None  # it has none, and JSON has no NaN
    stated = json.loads(Path("out.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    Path("out.json").write_text(json.dumps(stated | {"more": 1}))
    with pytest.raises(TraceError, match="more"):
        read_json("out.json", Evaluation, "no figures")


def test_the_same_seed_gives_the_same_figures(files: Path) -> None:
    first = evaluated()
    assert evaluated() == first
    assert evaluated(seed=1) != first


# ---------------------------------------------------------------- what it is given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"answers": 0}, "answers=0 must be a number in 1.."),
        ({"answers": -1}, "answers=-1"),
        ({"seed": -1}, "seed=-1 must be a number in 0.."),
        ({"picture": Path("x.docx")}, "picture=x.docx must be a file whose name ends in .png, .pdf, .svg"),
        ({"json": Path("test.safetensors")}, "must be files of their own"),
        ({"json": Path("./phone.json")}, "must be files of their own"),
        ({"json": Path("p.png"), "picture": Path("p.png")}, "must be files of their own"),
        ({"json": Path("runs/evaluate.png")}, "must be files of their own"),
        ({"json": Path("runs/ablation.png"), "ablation": True}, "must be files of their own"),
        ({"ablation": True, "search": True}, "leave out --bundle, --controller and --search"),
        ({"ablation": True, "controller": ("staged",)}, "leave out --bundle, --controller and --search"),
        ({"ablation": True, "bundle": (Path("one/mine/bundle"),)}, "leave out --bundle, --controller and --search"),
    ],
)
def test_arguments_are_refused_before_anything_is_read(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=re.escape(message)):
        arguments(**given)


def test_a_place_for_figures_is_looked_at_before_the_work(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "SyneraReplayEnv", lambda *_: pytest.fail("it began"))
    Path("folder").mkdir()
    for given in ({"json": Path("folder")}, {"picture": Path("phone.json/p.png")}):
        with pytest.raises(TraceError, match="cannot write to"):
            evaluate.main(arguments(**given))


def test_a_bundle_for_another_preference_is_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    required: list[Any] = []
    monkeypatch.setattr(Bundle, "require", lambda self, *given: required.append(given))
    evaluated(bundle=(Path("one/mine/bundle"),))
    assert [set(deployment.fingerprints) for deployment, *_ in required] == [{"slm", "llm", "tokenizer", "lens"}]


def test_the_plan_does_not_depend_on_who_is_compared(files: Path) -> None:
    alone, beside = evaluated(), evaluated(bundle=(Path("one/mine/bundle"),))
    assert all(alone.controllers[rule] == beside.controllers[rule] for rule in RULES)
    assert np.isfinite(alone.controllers["random"].means["reward"] or np.nan)


# ---------------------------------------------------------------- what is valued, and how much may be sent


def test_everybody_is_paid_by_what_is_preferred_and_keeps_to_the_limit(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    balanced, dear = evaluated(), evaluated(prefer="cost")
    one, other = (found.controllers["always"].means for found in (balanced, dear))
    assert one["quality"] == other["quality"]
    assert one["cloud_seconds"] is not None
    assert (one["reward"] or 0) - (other["reward"] or 0) == pytest.approx(4.0 * one["cloud_seconds"])
    assert "--prefer cost" in capsys.readouterr().out
    limited = evaluated(max_offload=0.0)
    assert {result.means["offload_rate"] for result in limited.controllers.values()} == {0.0}
    half = evaluated(max_offload=0.5, bundle=(Path("one/mine/bundle"),)).controllers
    assert 0 < (half["always"].means["offload_rate"] or 0) < (one["offload_rate"] or 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prefer": "cost", "preference": Preference(latency=1.0)}, "both say what is valued"),
        ({"max_offload": 2.0}, "max_offload=2"),
        ({"max_offload": float("nan")}, "max_offload=nan"),
    ],
)
def test_what_is_valued_and_limited_is_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        arguments(**given)


# ---------------------------------------------------------------- over scenarios


@pytest.fixture
def splits(files: Path, pair: Recorded) -> Path:
    for split in ("train", "validation"):
        pair.graphs.save(files / f"{split}.safetensors")
    for seed in range(2):
        shutil.copytree("one/mine/bundle", f"own-seed{seed}/bundle")
    (files / "mine.yaml").write_text("links: [20, markov]\nloads: [idle]\npreferences: [balanced]\n")
    return files


def gridded(**more: Any) -> Path:
    given = {"json": None, "scenarios": "mine.yaml", "report": Path("report")} | more
    evaluate.main(arguments(**given))
    return Path("report")


def test_scenarios_make_a_report(splits: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "FAMILIES", {"margin": ["margin=0.3", "margin=0.6"]})
    monkeypatch.setattr(_over_scenarios, "SEARCHED_ANSWERS", 6)
    bundles = tuple(Path(f"own-seed{seed}/bundle") for seed in range(2))
    folder = gridded(bundle=bundles, controller=("staged", "linucb"), search=True, max_offload=0.5)
    names = {each.name for each in folder.iterdir()}
    assert {
        "report.html",
        "report.md",
        "results.csv",
        "rewards.png",
        "fronts.png",
        "differences.png",
        "answer-1-1.png",
    } <= names
    rows = list(csv.DictReader((folder / "results.csv").open()))
    tuned = {"best fixed", "best fixed of each scenario", "margin, tuned to each scenario"}
    assert {row["controller"] for row in rows} == {*RULES, "staged", "linucb", "own", *tuned}
    assert {row["seed"] for row in rows if row["controller"] == "own"} == {"all", "0", "1"}
    assert {row["scenario"] for row in rows} == {"all", "20 ms / idle / balanced", "markov / idle / balanced"}
    rates = [float(row["mean"]) for row in rows if row["measure"] == "offload_rate" and row["kind"] == row["scenario"] == "all"]
    assert 0.3 < max(rates) <= 0.75, "ceil(t / 2) of few chunks"
    best = {
        row["controller"]: float(row["mean"])
        for row in rows
        if (row["measure"], row["kind"], row["scenario"]) == ("reward", "all", "all") and row["seed"] == "all"
    }
    assert best["best fixed of each scenario"] >= best["never"] - 0.05
    said = capsys.readouterr().out
    assert "report: report/report.html" in said
    assert "own" in (folder / "report.md").read_text()
    assert "No controller sends more than 0.5" in (folder / "report.html").read_text()


def test_a_report_alone_takes_the_mix_and_without_a_search_holds_all_against_the_threshold(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mixes.BUILT_IN, "mix", mixes.Mix((75.0,)))
    folder = gridded(scenarios=None)
    assert "minus threshold" in (folder / "report.md").read_text()
    assert "own-seed" not in (folder / "report.md").read_text()


def test_bounds_are_reported_as_shares_of_gaps(splits: Path) -> None:
    Path("b.json").write_text('{"bounds": {"clairvoyant": {"20 ms / idle / balanced": 2.0}}}')
    assert "clairvoyant" in (gridded(bounds=Path("b.json")) / "report.md").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scenarios": "mix", "json": Path("x.json")}, "--json and --scenarios do not go together"),
        ({"scenarios": "mix", "json": None, "picture": Path("x.png")}, "--picture and --scenarios"),
        ({"scenarios": "mix", "json": None, "prefer": "cost"}, "--prefer and --scenarios"),
        ({"report": Path("r"), "json": None, "workload": Path("w.csv")}, "--workload and --scenarios"),
        ({"scenarios": "mix", "json": None, "ablation": True}, "leave out --workload, --scenarios, --report, --prefer"),
        ({"ablation": True, "max_offload": 0.5}, "leave out --workload, --scenarios, --report, --prefer"),
        ({"bounds": Path("b.json")}, "--bounds are of scenarios"),
    ],
)
def test_what_does_not_go_with_scenarios_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=re.escape(message)):
        arguments(**given)


def test_scenarios_that_are_none_and_a_folder_that_cannot_be_written_are_refused_before_the_work(splits: Path) -> None:
    with pytest.raises(TraceError, match="no scenarios 'none'"):
        gridded(scenarios="none")
    Path("file").write_text("")
    with pytest.raises(TraceError, match="cannot write to"):
        gridded(report=Path("file"))
    with pytest.raises(SettingError, match="no controller 'nope'"):
        gridded(controller=("nope",))


# ---------------------------------------------------------------- the ablation


def ablated(files: Path, pair: Recorded, **more: Any) -> AblationFile:
    pair.graphs.save(files / "train.safetensors")
    evaluate.main(arguments(ablation=True, **more))
    return read_json("out.json", AblationFile, "no figures")


def test_an_ablation_writes_its_figures_and_names_a_rule_to_deploy(
    files: Path, pair: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ablated(files, pair)
    assert (found.graphs, found.split, found.seed, found.format_version) == ("test.safetensors", "test", 0, 2)
    assert (found.ablation.planned_answers, found.ablation.least_covered) == (6, 1.0)
    assert set(found.ablation.curves) == {*CRITERIA, RANDOM}
    said = capsys.readouterr().out
    assert "quality by offload rate, 6 answers to 6 test prompts" in said
    for name, curve in found.ablation.curves.items():
        (row,) = (line for line in said.splitlines() if line.startswith(f"│ {name}") and line.count("│") == 11)
        assert f"{curve.area.mean:.3f} [{curve.area.low:.3f}, {curve.area.high:.3f}]" in row
    (rule,) = re.findall(r"synera deploy --controller (\S+)", said)
    best = found.ablation.curves[found.ablation.best()]
    (point,) = {point for point in best.points if point.rule == rule}
    assert point.quality.mean >= best.points[-1].quality.mean - 0.01
    assert isinstance(controller(rule, pair.env().schema), FixedRule if rule in RULES else LevelRule)
    assert Path("runs/ablation.png").stat().st_size > 10_000
    assert not Path("runs/evaluate.png").exists()


def test_what_is_worth_deploying_offloads_least_of_what_is_nearly_as_good() -> None:
    def point(rule: str, rate: float, quality: float) -> Point:
        return Point(rule, rate, rate, Estimate(quality, quality, quality))

    area = Estimate(0.0, 0.0, 0.0)
    points = (
        point("never", 0, 0.5),
        point("a", 0.2, 0.97),
        point("b", 0.3, 0.995),
        point("c", 0.6, 1.0),
        point("always", 1, 1.0),
    )
    assert worth_deploying(Curve(points, {}, area, area, area)) == "b"


def test_a_figure_that_cannot_be_ranked_is_said_to_be_unknown(
    files: Path, pair: Recorded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = Signals(10, 1.0, 0.0, 0.0, {"confidence": Signal(None, None, None)})
    monkeypatch.setattr(_ablation, "measure_signals", lambda *_: nothing)
    assert ablated(files, pair).signals == nothing
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "unknown" in line)
    assert row.count("unknown") == 3


def test_what_an_ablation_lost_is_said(
    files: Path, pair: Recorded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ablated(files, pair)
    assert "loses most" not in capsys.readouterr().out
    half = Signals(10, 0.5, 0.0, 0.0, {"confidence": Signal(None, None, None)})
    monkeypatch.setattr(_ablation, "measure_signals", lambda *_: half)
    ablated(files, pair)
    said = capsys.readouterr().out
    assert "the rule that loses most keeps 100.0% of its answers" in said
    assert "50.0% of the chunks could be settled both ways, and the others are left out: record" in said


def test_an_ablation_is_of_a_world_without_outages(files: Path, pair: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[SyneraReplayEnv] = []
    real = _ablation.ablate

    def ablate(train: SyneraReplayEnv, test: SyneraReplayEnv, *more: Any) -> Any:
        met.extend((train, test))
        return real(train, test, *more)

    monkeypatch.setattr(_ablation, "ablate", ablate)
    ablated(files, pair)
    assert [env.outages for env in met] == [Outages.never()] * 2
    assert [Path(str(env.graphs.path)).name for env in met] == ["train.safetensors", "test.safetensors"]


def test_an_ablation_says_what_one_decision_is_worth_where_nothing_else_is_drawn(
    files: Path, pair: Recorded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    met: list[SyneraReplayEnv] = []
    real = _utility.measure_utility

    def measure(train: SyneraReplayEnv, test: SyneraReplayEnv, *more: Any) -> Any:
        met.extend((train, test))
        return real(train, test, *more)

    monkeypatch.setattr(_utility, "measure_utility", measure)
    found = ablated(files, pair).utility
    for env in met:
        assert env.outages == Outages.never()
        assert [link.family for link in env.links] == ["constant"]
        assert (env.cloud.queue_ms_quantiles, env.cloud.load_quantiles) == ((2.0,), (0.0,))
        assert env.cloud.forward_ms == GPU.forward_ms
    said = capsys.readouterr().out
    assert f"{found.decisions} decisions, {found.prompts} test prompts" in " ".join(said.split())
    for name, rule in found.rules.items():
        (row,) = (line for line in said.splitlines() if line.startswith(f"│ {name} ") and f"{rule.utility:.4f}" in line)
        assert str(rule.share) in row
    assert f"{found.clairvoyant.mean:.4f}" in said


# ---------------------------------------------------------------- a shared cloud


def test_with_a_workload_the_cloud_is_met_as_others_leave_it(files: Path) -> None:
    """Long answers of others slow the checks down; a rule that sends none is what it was."""
    save_workload(poisson(2.0, 60.0, lengths=Lengths(context=2000, generated=300)), "others.json")
    alone, shared = evaluated(), evaluated(workload=Path("others.json"))
    assert (alone.workload, shared.workload) == (None, "others.json")
    one, other = (each.controllers["always"].means for each in (alone, shared))
    assert one["quality"] is not None
    assert (other["seconds"] or 0) > 1.1 * (one["seconds"] or 0)
    assert alone.controllers["never"].means["seconds"] == shared.controllers["never"].means["seconds"]
    assert evaluated(workload=Path("others.json")) == shared
