"""Controllers: what training brings over every rule, in replay and live, and how soon; by the commands that a user has.

What they write lies in `runs/bench-agents` and is made once: remove what is to be made anew. What does not live here: what the
commands do, and how figures are read off what they wrote (_controllers.py).
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

from agents.gaps import Bounds
from runtime.settings import shown
from scripts import evaluate
from scripts._cli import console
from scripts._live_sections import LiveFile
from scripts._over_scenarios import evaluated
from scripts._tested import Tested
from scripts._text import harmless
from scripts.benchmarks import _controllers as of
from scripts.benchmarks.harness import Figure, Setting, read_figures, write_figures
from synera_env import SettingError, SyneraError, read_json

FOLDER = Path("runs/bench-agents")
_POLICY, _PEER = "counterfactual", "ppo"
_SEEDS, _SECONDS, _PER_KIND = 5, 180, 250
_VALIDATION = 248  # answers: each prompt of that split once
_TEST = "graphs/test.safetensors"
_LINK_AWARE = "runs/rules/link-aware.json"
_RULES = (_LINK_AWARE, "runs/rules/rejection.json", "until-unsure", "staged")
_LIVE_RULES = (*_RULES, "runs/rules/fixed.json", "runs/rules/budget-0.1.json", "runs/rules/budget-0.3.json", "margin=0.5")
_DEVICES, _LIVE_ANSWERS = 8, 32
_BUNDLES = tuple(Path(f"runs/{_POLICY}-seed{seed}/bundle") for seed in range(_SEEDS))
_LIVE_BUNDLES = tuple(Path(f"runs/{agent}-seed0/bundle") for agent in (_POLICY, _PEER))
"""One seed of each, as seeds of one agent are too alike to be ranked."""
_TRAINED: dict[str, tuple[str, ...]] = {
    _POLICY: ("--steps", "800", "--validate-every", "50", "--set", "load_spread=3"),
    _PEER: ("--steps", "2500000", "--validate-every", "131072"),
}
"""How each is trained; prompts, links, preferences, seeds, validation and wall time are alike, the cloud's waits of the first vary more."""


def measure(setting: Setting) -> list[Figure]:
    """Record, fit, train, evaluate over scenarios and live, as far as that is not done yet; return the figures.

    Raises:
        SyneraError: a command failed; the folder has what it printed.
    """
    pair, answers = setting.pair.absolute(), 8 * setting.repetitions
    _take(FOLDER, pair)
    with chdir(FOLDER):
        _run(_TEST, "record", "--per-kind", _PER_KIND, "--out", "graphs", "--slm", pair / "slm", "--llm", pair / "llm")
        _run(_LINK_AWARE, "fit-rules", "--graphs", "graphs", "--validation-answers", _VALIDATION)
        for agent in (_POLICY, _PEER):
            several = ("--agent", agent, "--seeds", _SEEDS, "--at-once", setting.threads, "--seconds", _SECONDS)
            judged = ("--preference", "sampled", "--validation-answers", _VALIDATION, "--against", _LINK_AWARE)
            _run(f"runs/{agent}-seed{_SEEDS - 1}/bundle", "sweep", "--graphs", "graphs", *several, *judged, *_TRAINED[agent])
        bounds = f"mix-{answers}.json"
        mix = ("--graphs", "graphs", "--scenarios", "mix", "--answers", answers)
        _run(bounds, "bounds", *mix, "--no-clairvoyant", "--out", bounds)
        live = ("--graphs", _TEST, "--live", _DEVICES, "--answers", _LIVE_ANSWERS, "--json", "live.json")
        _run("live.json", "evaluate", *live, "--picture", "live.png", "--controller", *_LIVE_RULES, "--bundle", *_LIVE_BUNDLES)
        return [
            *_kept(Path(f"contest-{answers}.json"), lambda: _contest(answers, Path(bounds))),
            *of.live(read_json(Path("live.json"), LiveFile, "no live.json"), _POLICY, _LINK_AWARE),
            *of.training(Path("runs"), (_POLICY, _PEER), _SEEDS, Path("training.png")),
        ]


def _take(folder: Path, pair: Path) -> None:
    """Make the folder, or go on with it.

    Raises:
        SettingError: what it holds is of another pair.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "pair.txt"
    if note.exists() and note.read_text() != str(pair):
        raise SettingError(f"{folder} holds what was made with the pair {shown(note.read_text())}, not {pair}; remove it first")
    note.write_text(str(pair))


def _contest(answers: int, bounds: Path) -> list[Figure]:
    """Over the scenarios of the mix, with its report."""
    given = evaluate.Arguments(
        bundle=_BUNDLES,
        controller=_RULES,
        graphs=Path(_TEST),
        answers=answers,
        search=True,
        scenarios="mix",
        report=Path(f"report-{answers}"),
        bounds=bounds,
    )
    tested = Tested.of(given)
    means = evaluated(given, tested)
    return [
        *of.margins(means, _POLICY, _LINK_AWARE, tested),
        *of.gaps(means, Bounds.load(bounds), _POLICY, _LINK_AWARE),
        *of.cloud_at_quality(tested, _BUNDLES, answers),
    ]


def _run(made: str, command: str, *words: object) -> None:
    """Run a command, unless what it makes is there.

    Raises:
        SyneraError: it failed.
    """
    if Path(made).exists():
        return
    line = [command, *map(str, words)]
    console.print(harmless(f"synera {shlex.join(line)}"))
    log = Path(f"{command}.log")
    with log.open("a") as told:
        module = f"scripts.{command.replace('-', '_')}"
        ended = subprocess.run([sys.executable, "-m", module, *line[1:]], stdout=told, stderr=subprocess.STDOUT, check=False)
    if ended.returncode:
        raise SyneraError(f"synera {command} failed with exit code {ended.returncode}; {FOLDER / log} has what it printed")


def _kept(path: Path, measured: Callable[[], list[Figure]]) -> list[Figure]:
    """Figures of an earlier time, or new ones, which are kept."""
    if not path.exists():
        write_figures(measured(), path)
    return read_figures(path)
