"""The area `agents`: which commands it runs and keeps, and what it reads off what they wrote; none of them is run here."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tyro

from agents.aggregates import Means
from agents.comparison import Estimate
from agents.gaps import Bounds
from agents.registry import rules
from scripts import _grid
from scripts._live_sections import LiveFile, LiveResult
from scripts._outcome import BEST_FIXED
from scripts.benchmarks import _controllers as of
from scripts.benchmarks import agents
from scripts.benchmarks.harness import Figure, Setting, read_figures, write_figures
from synera_env import SettingError, SyneraError
from tests.agents.test_aggregates import contest
from tests.support.recorded import GPU, LINKS, PHONE, Recorded, recorded
from traces import bundled

LINK_AWARE = "runs/rules/link-aware.json"


def log_of(rewards: list[float], rule: float) -> str:
    """Validations 20 s apart, with intervals of 0.05 to both sides."""
    lines = []
    for number, reward in enumerate(rewards):
        minus = reward - rule
        found = {"steps": number, "seconds": 20.0 * number + 10, "reward": reward}
        lines.append(json.dumps(found | {"minus_best_rule": [minus, minus - 0.05, minus + 0.05]}))
    return "".join(f"{line}\n" for line in lines)


def result(replay: float, live: float) -> LiveResult:
    means: dict[str, dict[str, float | None]] = {"replay": {"reward": replay}, "live": {"reward": live}}
    return LiveResult(means, {"never": Estimate(0.1, 0.0, 0.2)}, 1.0, {})


def live_file() -> LiveFile:
    rules = {LINK_AWARE: result(0.3, 0.31), "runs/rules/fixed.json": result(0.2, 0.25), "never": result(0.1, 0.1)}
    ours = {f"counterfactual-seed{seed}": result(0.4 + seed / 10, 0.4 + seed / 10) for seed in range(2)}
    return LiveFile("test", 0, 8, 16, ("remote",), rules | ours, {"mean": 0.95, "low": 0.9, "high": 1.0})


class Commands:
    """Stands for processes: reads the command lines as the commands do, and makes what they would."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, Any]] = []
        self.fails = ""

    def __call__(self, line: list[str], stdout: Any, stderr: int, check: bool) -> SimpleNamespace:
        assert (line[1], stderr, check) == ("-m", subprocess.STDOUT, False)
        name = line[2].removeprefix("scripts.")
        given = tyro.cli(import_module(line[2]).Arguments, args=line[3:])
        self.ran.append((name, given))
        stdout.write(f"what {name} printed")
        if name == self.fails:
            return SimpleNamespace(returncode=2)
        getattr(self, name)(given)
        return SimpleNamespace(returncode=0)

    def record(self, given: Any) -> None:
        given.out.mkdir()
        (given.out / "test.safetensors").touch()

    def fit_rules(self, given: Any) -> None:
        given.out.mkdir(parents=True)
        (given.out / "link-aware.json").touch()

    def sweep(self, given: Any) -> None:
        for seed in range(given.seeds):
            run = Path(f"runs/{given.agent[0]}-seed{seed}")
            (run / "bundle").mkdir(parents=True)
            (run / "validation.jsonl").write_text(log_of([0.2, 0.32, 0.4], 0.3 + seed / 100))

    def bounds(self, given: Any) -> None:
        given.out.touch()

    def evaluate(self, given: Any) -> None:
        given.json.write_text(json.dumps(asdict(live_file())))


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.chdir(tmp_path)
    found = Commands()
    monkeypatch.setattr(agents.subprocess, "run", found)
    monkeypatch.setattr(agents, "_contest", lambda answers, bounds: [Figure("over scenarios", answers, "", 0.0, "higher", "")])
    return found


def test_every_command_is_run_once_and_what_it_made_is_kept(commands: Commands) -> None:
    figures = agents.measure(Setting(bundled.PAIR, 2, 2))
    assert [name for name, _ in commands.ran] == ["record", "fit_rules", "sweep", "sweep", "bounds", "evaluate"]
    assert figures[0] == Figure("over scenarios", 16, "", 0.0, "higher", "")
    sweeps = [given for name, given in commands.ran if name == "sweep"]
    assert [given.agent for given in sweeps] == [("counterfactual",), ("ppo",)]
    alike = ("seeds", "seconds", "preference", "validation_answers", "graphs", "against", "at_once")
    assert len({tuple(getattr(given, name) for name in alike) for given in sweeps}) == 1
    assert (sweeps[0].seeds, sweeps[0].at_once) == (5, 2)
    assert len(commands.ran[-1][1].controller) + 8 >= 10, "with those that need no figures"
    assert (agents.FOLDER / "training.png").stat().st_size > 10_000
    assert Path.cwd().name != agents.FOLDER.name
    assert agents.measure(Setting(bundled.PAIR, 2, 2)) == figures
    assert len(commands.ran) == 6


def test_what_was_made_with_another_pair_is_refused_and_kept(commands: Commands, tmp_path: Path) -> None:
    agents.measure(Setting(bundled.PAIR, 1, 1))
    before = len(commands.ran)
    with pytest.raises(
        SettingError, match=r"runs/bench-agents holds what was made with the pair '.*pair', not .*mine; remove it"
    ):
        agents.measure(Setting(tmp_path / "mine", 1, 1))
    assert len(commands.ran) == before


def test_a_command_that_fails_ends_it_and_what_it_printed_is_there(commands: Commands) -> None:
    commands.fails = "fit_rules"
    with pytest.raises(SyneraError, match=r"synera fit-rules failed with exit code 2; runs/bench-agents/fit-rules\.log"):
        agents.measure(Setting(bundled.PAIR, 1, 1))
    (log,) = agents.FOLDER.glob("fit-rules*.log")
    assert log.read_text() == "what fit_rules printed"
    commands.fails = ""
    agents.measure(Setting(bundled.PAIR, 1, 1))
    assert [name for name, _ in commands.ran].count("record") == 1


def test_training_tells_when_it_was_ahead_and_what_would_have_been_exported_by_then(tmp_path: Path) -> None:
    logs = {"ours-seed0": [0.2, 0.32, 0.4, 0.1], "ours-seed1": [0.2, 0.1, 0.1, 0.1], "peer-seed0": [0.1], "peer-seed1": [0.15]}
    for name, rewards in logs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "validation.jsonl").write_text(log_of(rewards, 0.3))
    ahead, surely, *curve = of.training(tmp_path, ("ours", "peer"), 2, tmp_path / "picture.png")
    assert (ahead.value, ahead.met, ahead.peer) == (float("inf"), False, "median of 2 seeds: 30, inf")
    assert surely.peer == "median of 2 seeds: 50, inf"
    assert [round(each.value, 3) for each in curve] == [0.26, 0.3, 0.3]
    assert "peer 0.125 (seeds: 0.100 0.150); the best rule 0.300" in curve[-1].peer


def test_live_tells_ranks_and_who_is_ahead() -> None:
    spearman, fixed, link_aware = of.live(live_file(), "counterfactual", LINK_AWARE)
    assert (spearman.value, spearman.met) == (0.95, True)
    assert spearman.peer.startswith("5 controllers, 16 answers of each by 8 devices")
    assert fixed.value == pytest.approx(0.45 - 0.25)
    assert link_aware.value == pytest.approx(0.45 - 0.31)
    assert "in replay on the same answers +0.1500" in link_aware.peer


def test_margins_are_met_where_the_whole_interval_is_above_zero() -> None:
    links = {"train": [SimpleNamespace(family="s0")], "test": [SimpleNamespace(family="s0"), SimpleNamespace(family="s1")]}
    tested: Any = SimpleNamespace(links=links.__getitem__, test_links=links["test"])
    rewards = {BEST_FIXED: 0.1, _grid.OF_EACH: 0.25, LINK_AWARE: 0.35, "ours": 0.3}
    means = Means(contest({name: {"-": [[value] * 3] * 2} for name, value in rewards.items()}))
    figures = of.margins(means, "ours", LINK_AWARE, tested)
    assert [figure.met for figure in figures] == [True, True, False] * 2
    assert "2 scenarios" in figures[0].name
    assert "1 of links never trained on" in figures[3].name
    assert figures[0].value == pytest.approx(0.2)


def test_a_gap_is_told_from_two_beginnings() -> None:
    rewards = {BEST_FIXED: 0.1, LINK_AWARE: 0.2, "ours": 0.3}
    means = Means(contest({name: {"-": [[value] * 3]} for name, value in rewards.items()}))
    (name,) = (scenario.name for scenario in means.contest.scenarios)
    fixed, link_aware = of.gaps(means, Bounds({"informed": {name: 0.4}}), "ours", LINK_AWARE)
    assert (fixed.value, fixed.goal, fixed.met) == (pytest.approx(2 / 3), 0.5, True)
    assert (link_aware.value, link_aware.goal) == (pytest.approx(0.5), None)


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    figures = [Figure("a", 1.5, "s", None, "lower", "b"), Figure("c", 2.0, "", 1.0, "higher", "d")]
    write_figures(figures, tmp_path / "figures.json")
    assert read_figures(tmp_path / "figures.json") == figures


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.mark.parametrize("rule", ["always", "never"])
def test_cloud_at_the_quality_of_the_llm_is_that_of_the_mix_that_reaches_it(
    rule: str, pair: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of, "usable", lambda path, env: rules(env.schema)[rule])
    tested: Any = SimpleNamespace(graphs=pair.graphs, test_links=LINKS, device=PHONE, cloud=GPU)
    (figure,) = of.cloud_at_quality(tested, [Path("a"), Path("b")], 4)
    worth = re.search(r"the LLM's quality ([\d.]+) at .* balanced ([\d.]+) at", figure.peer)
    assert worth is not None
    llm, ours = map(float, worth.groups())
    assert llm > 0.05
    if rule == "never":
        assert figure.value == pytest.approx(1 - 0.01 / (llm - ours), abs=0.01)
    else:
        assert figure.value == pytest.approx(1.0)
    assert not figure.met
