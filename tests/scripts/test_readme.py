"""Every command and snippet of the README runs, in its order, in one folder of a user; and what it names is there.

Long commands run in a short form: what is added to each is in `SHORTER`, and a command that is not there fails.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tyro

from agents.learning import imitation
from scripts import __main__ as command
from scripts import _live_world, _over_scenarios, evaluate, sweep
from scripts._scale import Ended
from scripts.benchmarks import env, exits, faults, vector, vector_growth
from tests.support.link_files import every_form
from tests.support.own_pair import save_pair, write_prompts
from tests.support.process import served, verifier_here
from traces import bundled
from traces.hat import adapter_card

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
_LITTLE = "--steps 256 --envs 2 --validation-answers 2 --set rollout=64 --set minibatch=64 --set hidden=8"
SHORTER = {
    "synera record": "--per-kind 2 --max-new-tokens 10",
    "synera inspect-trace runs/graphs/test.safetensors --coverage": "--answers 2",
    "synera inspect-trace my-links": "",
    "synera evaluate --links my-links": "--answers 1",
    "synera measure-profiles": "--repetitions 1",
    "synera train --name mine --graphs runs/graphs": _LITTLE,
    "synera evaluate --graphs runs/graphs/test.safetensors --bundle runs/mine/bundle --search": "--answers 4 --json runs/eval.json",
    "synera evaluate --ablation": "--answers 1",
    "synera train-adapter": "--steps 1 --test-prompts 1",
    "synera fit-rules --graphs runs/graphs": "--rules budget link-aware --budgets 0.2 --answers 2 --validation-answers 2",
    "synera evaluate --controller my_rules:NearAndUnsure runs/rules/link-aware.json staged linucb": "--graphs runs/graphs/test.safetensors --answers 2",
    "synera evaluate --scenarios mix --search --controller staged rejection=0.4 until-unsure --report runs/report": (
        "--graphs runs/graphs/test.safetensors --answers 2 --scenarios quick --no-search"
    ),
    "synera evaluate --live 8 --answers 16 --break-link --controller until-unsure staged --bundle runs/mine/bundle": (
        "--graphs runs/graphs/test.safetensors --answers 1 --no-break-link"
    ),
    "synera deploy --controller my_rules:NearAndUnsure": "--unpaced --no-emulate-link",
    "synera evaluate --bundle runs/my-sac --links my-links": "--answers 1",
    "synera deploy --controller runs/my-sac --links my-links": "--unpaced",
    "synera serve": "",
    "synera make-certs": "",
    "synera make-certs --clients phone-1 --tokens phone-1": "",
    "synera serve --port 0": "",
    "synera deploy --controller runs/mine/bundle": "--unpaced --no-emulate-link",
    "synera deploy --controller runs/mine/bundle --log runs/live/mine": "--unpaced --no-emulate-link",
    "synera inspect-run runs/live/mine": "",
    "synera deploy --cloud HOST:PORT": "--unpaced --no-emulate-link --max-new-tokens 3 --prompt fits",
    "synera loadtest --sweep 1,2,4,8,16,32": "--sweep 1 --seconds 0.5",
    "synera bench env": "--repetitions 1",
    "synera bench exits": "--repetitions 1",
    "synera privacy": "--prompts 2 --replayed 1 --depths 1",
    "synera bench sampling": "--repetitions 1",
    "synera bench faults": "--repetitions 1",
    "synera bench precision": "--repetitions 1",
    "synera train --preference sampled": f"--name sampled {_LITTLE} --grow yes --steps 128",
    "synera train --agent discrete-sac --set learning_rate=0.001 --set hidden=128": (
        "--name chosen --steps 64 --envs 2 --validation-answers 2 --set learning_starts=32 --set batch=16 --grow no"
    ),
    "synera train --name imitated --imitate runs/rules/link-aware.json --patience 5": f"{_LITTLE} --graphs runs/graphs",
    "synera train --agent maskable-ppo --stop-when beats-rules --against runs/rules/link-aware.json": (
        f"{_LITTLE} --name masked --graphs runs/graphs"
    ),
    "synera tune --agent maskable-ppo --trials 20": (
        "--trials 1 --steps 64 --envs 8 --validation-answers 2 --set hidden=8 --graphs runs/graphs"
    ),
    "synera sweep --agent counterfactual ppo --seeds 5 --name best": (
        "--agent ppo --seeds 1 --steps 256 --envs 2 --validation-answers 2 --set rollout=64 --set minibatch=64 --set hidden=8"
        " --graphs runs/graphs"
    ),
    "synera serve --split 2": "",
    "synera deploy --system hat": "--unpaced --no-emulate-link --max-new-tokens 6",
    "synera record --system hat": "--per-kind 2 --max-new-tokens 10 --threads 1",
    "synera inspect-trace runs/hat-graphs/test.safetensors": "",
    "synera train --system hat --name hat --graphs runs/hat-graphs": _LITTLE,
    "synera evaluate --system hat --graphs runs/hat-graphs/test.safetensors --bundle runs/hat/bundle": "--answers 2",
    "synera deploy --system hat --controller runs/hat/bundle": "--unpaced --no-emulate-link",
    "synera record --slm /models/small --llm /models/large --prompts prompts.jsonl --chat --out runs/own-graphs": "--max-new-tokens 6",
    "synera train --name own --graphs runs/own-graphs": _LITTLE,
    "synera evaluate --graphs runs/own-graphs/test.safetensors --bundle runs/own/bundle": "--answers 2",
    "synera serve --model /models/large --dtype bfloat16": "",
    "synera reproduce hat": "--seeds 1 --answers 1",
    "synera deploy --slm /models/small --controller runs/own/bundle --prompts prompts.jsonl --unpaced": "--no-emulate-link",
}
"""By command, what makes it short. Later words win over earlier ones."""
ANOTHER_NUMBER = {
    "synera bench faults --repetitions 200",
    "synera bench precision --repetitions 48",
    "synera privacy --prompts 200 --replayed 16",
}
"""In their short form they are what was run a line before: here they are understood."""
SMALLER: tuple[tuple[Any, dict[str, Any]], ...] = (
    (_live_world, {"verifier_process": verifier_here}),
    (bundled, {"MAX_NEW_TOKENS": 24}),
    (exits, {"_MARGINS": (0.5,)}),
    (env, {"_ANSWERS": 1}),
    (evaluate, {"_SEARCHED_ANSWERS": 12}),
    (_over_scenarios, {"SEARCHED_ANSWERS": 12}),
    (faults, {"_LONGEST_FAULT_SECONDS": 0.5, "_MAX_NEW_TOKENS": 16}),
    (sweep, {"spread": lambda work, items, *_, **__: (Ended(number, work(item)) for number, item in enumerate(items))}),
    (imitation, {"_DECISIONS": 256, "_GRADIENTS": 20, "_VALUE_GRADIENTS": 20}),
    (vector, {"ROWS": 64, "_NODES": 50_000, "_PPO": replace(vector._PPO, steps=3 * 32 * 64, envs=64)}),
    (adapter_card, {"EXCHANGES": 0}),
    (vector_growth, {"ROWS": 8, "_PROMPTS": 4}),
)
"""What no option makes short."""
ELSEWHERE = {
    *("make demo", "make test", "make check", "make wheel"),
    *(
        "synera check-link",
        "synera bench device",
        "synera bench cloud",
        "synera bench cloud-soak --repetitions 50",
        "synera bench record",
        "synera bench stall-free",
        "synera validate-replay",
        "synera validate-replay --system hat",
    ),
    *("synera inspect-trace", "synera validate-load", "synera bounds", "synera bench agents --threads 2"),
}
"""Run by others, as it takes long or not every machine allows it: here it is checked that the target or command is there."""


@dataclass
class Step:
    """A command line, or a Python snippet of more than a line."""

    text: str
    python: bool = False


def steps() -> Iterator[Step]:
    """Everything in the README that can be run, in its order, each once."""
    seen = set()
    blocks = re.compile(r"```(\w+)\n(.*?)```|`([^`\n]+)`", re.DOTALL)
    for language, block, inline in (found.groups() for found in blocks.finditer(README)):
        if language == "python":
            yield Step(block, python=True)
            continue
        lines = block.splitlines() if language == "bash" else _commands(inline or "")
        for line in lines:
            words = " ".join(shlex.split(line, comments=True))
            if words and words not in seen:
                seen.add(words)
                yield Step(words)


def _commands(inline: str) -> list[str]:
    """What a reader would type; shorthands of a line above are written out."""
    short = {
        "cloud": "synera bench cloud",
        "env": "synera bench env",
        "exits": "synera bench exits",
        "faults": "synera bench faults",
        "precision": "synera bench precision",
        "record": "synera bench record",
        "sampling": "synera bench sampling",
        "stall-free": "synera bench stall-free",
        "serve --port 0": "synera serve --port 0",
        "deploy --cloud HOST:PORT": "synera deploy --cloud HOST:PORT",
        "--preference sampled": "synera train --preference sampled",
    }
    line = short.get(inline, inline)
    return [line] if re.match(r"(synera|make|tensorboard) \S", line) and not line.startswith("synera COMMAND") else []


@dataclass
class User:
    """Who follows the README in a folder of their own."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    open: ExitStack
    target: str = ""
    middle: str = ""
    """Of the verifier that serves a middle."""
    said: dict[str, str] = field(default_factory=dict)
    verifiers: dict[tuple[tuple[str, str], ...], str] = field(default_factory=dict)
    """Those that run, by their options."""

    def run(self, step: Step) -> None:
        """Do what a line says."""
        if step.python and (named := re.match(r"# (\w+\.py)\n", step.text)):
            (self.folder / named[1]).write_text(step.text)
        elif step.python:
            exec(compile(step.text.replace("127.0.0.1:50051", self.target), "README.md", "exec"), {"__name__": "readme"})
            self.said[step.text] = self.capsys.readouterr().out
        elif step.text.startswith("tensorboard"):
            assert list(self.folder.glob(f"{step.text.split()[-1]}/**/events.out.tfevents.*"))
        elif step.text in ANOTHER_NUMBER:
            _, name, *words = step.text.split()
            tyro.cli(import_module(f"scripts.{name}").Arguments, args=words)
        elif step.text in ELSEWHERE and step.text.startswith("synera"):
            assert step.text.split()[1] in command.commands()
        elif step.text.startswith("make"):
            assert step.text in ELSEWHERE
            assert re.search(rf"^{step.text.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        else:
            self._synera(step.text)

    def _synera(self, line: str) -> None:
        assert line in SHORTER, f"the README says {line!r}; say in SHORTER how it runs quickly"
        words = f"{line.replace('/models/', f'{self.folder}/models/')} {SHORTER[line]}".split()[1:]
        name, *rest = [self.target if word == "HOST:PORT" else word for word in words]
        if name == "serve":  # on a free port
            given = dict(zip(rest[::2], rest[1::2], strict=True)) | {"--port": "0"}
            if (asked := tuple(given.items())) not in self.verifiers:
                self.verifiers[asked] = self.open.enter_context(_served(given))
            if "--split" in given:
                self.middle = self.verifiers[asked]
            else:
                self.target = self.verifiers[asked]
            return
        if name == "deploy" and "--cloud" not in rest:
            rest += ["--cloud", self.middle if "--system" in rest else self.target]
        self.monkeypatch.setattr(sys, "argv", ["synera", name, *rest])
        command.main()
        said = self.capsys.readouterr()
        assert said.err == ""
        self.said[line] = said.out
        check_next_steps(said.out, self.folder)


@contextmanager
def _served(options: dict[str, str]) -> Iterator[str]:
    """A verifier as a process of its own."""
    given = dict(options)
    model = Path(given.pop("--model", str(bundled.PAIR / "llm")))
    with served(model, *(word for pair in given.items() for word in pair)) as process:
        yield process.target


def check_next_steps(said: str, folder: Path) -> None:
    """What a command says to type next can be read by that command, and every file that it names is there."""
    for line in re.findall(r"^(?:\w+:|\s{5,}) *(synera .*)$", said, re.MULTILINE):
        _, name, *rest = shlex.split(line, comments=True)
        arguments = tyro.cli(import_module(f"scripts.{name.replace('-', '_')}").Arguments, args=rest)
        given = {each.name: getattr(arguments, each.name) for each in fields(arguments)}
        for path in (value for value in given.values() if isinstance(value, Path)):
            written = name in ("record", "evaluate", "train-pair", "demo") and path in (given.get("out"), given.get("picture"))
            if str(path) == "GRAPHS_OF_THE_MODELS":  # to be filled in: a device does not know them
                continue
            assert written or (folder / path).exists(), f"{line!r} names {path}, which is not there"
        for path in given.get("bundle", ()):
            assert (folder / path / "bundle.json").is_file()


@pytest.fixture
def user(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    pair = save_pair(tmp_path / "pair", "Qwen2")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small").symlink_to(pair.slm)
    (tmp_path / "models" / "large").symlink_to(pair.llm)
    every_form(tmp_path / "my-links")
    write_prompts(tmp_path / "prompts.jsonl", 24)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for module, smaller in SMALLER:
        for name, value in smaller.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.delitem(sys.modules, "my_rules", raising=False)
    capsys.readouterr()
    with ExitStack() as opened:
        yield User(tmp_path, capsys, monkeypatch, opened)


def test_what_the_readme_says_can_be_done_in_its_order(user: User) -> None:
    found = list(steps())
    for step in found:
        try:
            user.run(step)
        except BaseException as error:
            error.add_note(f"README.md: {step.text}")
            raise
    assert {step.text for step in found if step.text.startswith("synera")} - ELSEWHERE - ANOTHER_NUMBER == set(SHORTER), (
        "some are no longer said"
    )
    assert sum(step.python for step in found) == 6
    own = next(text for line, text in user.said.items() if line.startswith("synera evaluate --controller my_rules"))
    assert "reward of my_rules:NearAndUnsure minus threshold" in own
    said = user.said
    assert "synera train --graphs runs/graphs" in said["synera record"]
    assert (
        "--graphs runs/graphs/test.safetensors --bundle runs/mine/bundle"
        in said["synera train --name mine --graphs runs/graphs"]
    )
    evaluated = next(text for line, text in said.items() if line.startswith("synera evaluate --graphs runs/graphs"))
    assert "synera deploy --controller runs/mine/bundle" in evaluated
    assert "uncovered" in evaluated
    assert (user.folder / "runs" / "eval.json").is_file()
    assert "live, 4 answers" in said["synera inspect-run runs/live/mine"]
    check_own_models(said, user.folder)


def check_own_models(said: dict[str, str], folder: Path) -> None:
    """From two folders and a file of prompts to a deployed bundle, with nothing to be said of the chat but `--chat`."""
    recorded, deployed = (
        next(text for line, text in said.items() if line.startswith(f"synera {command}") and "/models/small" in line)
        for command in ("record", "deploy")
    )
    assert "cost: 24 prompts, at most " in recorded
    assert "answers are scored by token-f1, against the reference" in recorded
    assert "next: synera train --name own --graphs runs/own-graphs\n" in recorded
    read = r"prompts are read between '<|im_start|>system\nYou are a helpful assistant."
    assert read in recorded
    assert read in deployed
    assert "as the bundle states" in deployed
    assert deployed.count("\nanswer: ") == 24
    stated = json.loads((folder / "runs" / "own" / "bundle" / "bundle.json").read_text())["frame"]
    assert stated["after"] == "<|im_end|>\n<|im_start|>assistant\n"
    assert stated["ends"] == [2]


# ---------------------------------------------------------------- what it names


def test_the_files_that_it_names_are_there() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", prose) if "://" not in link]
    named = re.findall(r"`((?:tests|scripts|agents|runtime|synera_env|cloud|traces)/[\w/.]*)`", prose)
    assert len(links) > 15
    assert len(named) > 10
    assert [path for path in (*links, *named) if "NAME" not in path and not (ROOT / path).exists()] == []


def test_every_command_is_in_it() -> None:
    """A user finds each one, but for what trains the bundled pair."""
    said = {" ".join(line.split()[:2]) for line in (*SHORTER, *ANOTHER_NUMBER, *ELSEWHERE)}
    assert {f"synera {name}" for name in command.commands()} - said == {
        "synera demo",
        "synera train-pair",
    }


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("next: synera train --graphs nowhere", AssertionError),
        ("next: synera evaluate --graph runs", SystemExit),
        ("next: synera serve\n      synera evaluate --bundle there   # and look", AssertionError),
    ],
)
def test_the_check_of_next_steps_itself(said: str, wrong: type[BaseException], tmp_path: Path) -> None:
    check_next_steps("next: synera serve   # then look\nit says: do synera --this", tmp_path)
    with pytest.raises(wrong):
        check_next_steps(said, tmp_path)
