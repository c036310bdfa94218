"""The line that says what to type next: it names what the user gave, and can be typed as it is."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import tyro

from scripts import _deploy, deploy, evaluate, train
from scripts._cli import next_step
from scripts._systems import unless_bundled
from synera_env import Preference, synera_schema
from traces import bundled


def test_what_the_command_does_anyway_is_not_named() -> None:
    assert next_step("evaluate") == "synera evaluate"
    assert next_step("evaluate", bundle=(), graphs=unless_bundled(bundled.graphs("test")), search=False) == "synera evaluate"
    assert next_step("measure-profiles", slm=bundled.PAIR / "slm") == "synera measure-profiles"


def test_what_was_given_is_named_quoted_and_read_back_as_it_was() -> None:
    given = {"graphs": Path("my graphs/a b.safetensors"), "bundle": (Path("x"), Path("y")), "search": True, "seed": 3}
    line = next_step("evaluate", **given)
    assert line == "synera evaluate --graphs 'my graphs/a b.safetensors' --bundle x y --search --seed 3"
    assert tyro.cli(evaluate.Arguments, args=shlex.split(line)[2:]) == evaluate.Arguments(**given)


def test_names_with_hyphens_switches_and_parts() -> None:
    given = {"emulate_link": False, "max_new_tokens": 5, "preference": Preference(quality=2.0)}
    line = next_step("deploy", **given)
    assert "--no-emulate-link --max-new-tokens 5 --preference.quality 2.0" in line
    assert tyro.cli(deploy.Arguments, args=shlex.split(line)[2:]) == deploy.Arguments(**given)
    line = next_step("train", device_profile=Path("p.json"))
    assert tyro.cli(train.Arguments, args=shlex.split(line)[2:]).device_profile == Path("p.json")


def test_an_argument_that_the_command_does_not_have_is_a_bug() -> None:
    with pytest.raises(ValueError, match="synera evaluate has no argument 'graph'"):
        next_step("evaluate", graph=Path("x"))
    with pytest.raises(ModuleNotFoundError):
        next_step("evalaute")


def test_the_line_acts_on_no_terminal() -> None:
    assert "\x1b" not in next_step("evaluate", graphs=Path("\x1b[31m"))


@pytest.mark.parametrize(
    ("controller", "wanted"),
    [("threshold", ""), ("staged", " --controller staged"), ("my_rules:Mine", " --controller my_rules:Mine")],
)
def test_what_was_deployed_is_what_is_to_be_evaluated(controller: str, wanted: str) -> None:
    assert (
        _deploy.evaluation(deploy.Arguments(controller=controller), None, synera_schema(exits=1), {})
        == f"synera evaluate{wanted}"
    )
