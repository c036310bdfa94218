"""`synera deploy`: text is shown as it is, what does not fit is refused, and an answer starts where the seed says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.bundle import BundleError
from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.device import Device
from runtime.errors import SettingError
from scripts import deploy
from scripts.deploy import Arguments
from synera_env import Preference
from tests.conftest import save_tiny_llama
from tests.support.recorded import PHONE, Recorded, recorded, trained


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture(scope="module")
def verifier(pair: Recorded) -> Iterator[str]:
    with running_server(ServerConfig(model=pair.llm)) as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture
def given(pair: Recorded, verifier: str, tmp_path: Path) -> dict[str, Any]:
    PHONE.save(tmp_path / "phone.json")
    return {
        **{"slm": pair.slm, "cloud": verifier, "profile": tmp_path / "phone.json", "max_new_tokens": 4},
        **{"unpaced": True, "emulate_link": False, "prompt": ("the river .",)},
    }


HOSTILE = "[INST] [bold]x[/] [/red] :smile: \x1b[2J\x1b]0;t\x07 \u202e \\"
SHOWN = "[INST] [bold]x[/] [/red] :smile: \\x1b[2J\\x1b]0;t\\x07 \\u202e \\"


@pytest.mark.parametrize("controller", ["always", "never"])
def test_prompts_and_answers_are_shown_as_they_are_and_act_on_nothing(
    controller: str, given: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Device, "text", lambda self, tokens, special=False: HOSTILE)
    deploy.main(Arguments(**given | {"prompt": (HOSTILE,), "controller": controller}))
    said = capsys.readouterr().out
    assert f"answer: {SHOWN}\n" in said
    assert f"{SHOWN}  (link real)" in said
    assert said.count("[INST]") > 3  # the table's drafts and tokens, too
    assert not {"\x1b", "\x07", "\u202e"} & set(said)


def test_a_cloud_that_is_lost_is_told_harmless(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.client import CloudClient
    from runtime.errors import CloudUnavailableError

    ask = CloudClient.ask

    def lost(client: CloudClient, method: str, *arguments: Any, **named: Any) -> Any:
        if method == "Verify":
            raise CloudUnavailableError("[/] gone \x1b[31m")
        return ask(client, method, *arguments, **named)

    monkeypatch.setattr(CloudClient, "ask", lost)
    deploy.main(Arguments(**given | {"controller": "always"}))
    said = capsys.readouterr().out
    assert "the device went on alone: [/] gone \\x1b[31m\n" in said
    assert "answer: " in said


def test_a_bundle_meets_the_llm_that_it_was_trained_with_or_none(given: dict[str, Any], tiny_llm: Path, tmp_path: Path) -> None:
    bundle = str(trained(tiny_llm) / "bundle")
    deploy.main(Arguments(**given | {"controller": bundle}))
    other = save_tiny_llama(tmp_path / "other", layers=3, seed=9)
    with running_server(ServerConfig(model=other)) as port:
        cloud = f"127.0.0.1:{port}"
        with pytest.raises(BundleError, match="was trained with the llm"):
            deploy.main(Arguments(**given | {"controller": bundle, "cloud": cloud}))
        deploy.main(Arguments(**given | {"controller": "always", "cloud": cloud}))  # a rule was trained with none


def test_a_preference_outside_of_the_training_is_refused_before_the_cloud_is_asked(
    given: dict[str, Any], tiny_llm: Path
) -> None:
    bundle = str(trained(tiny_llm) / "bundle")
    nobody = given | {"cloud": "127.0.0.1:1"}
    with pytest.raises(BundleError, match=r"cost=100"):
        deploy.main(Arguments(**nobody | {"controller": bundle, "preference": Preference(cost=100.0)}))


def test_more_tokens_than_the_models_have_room_for_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(
        SettingError, match="max_new_tokens=256 leaves no room for a prompt in the models' context of 256 tokens"
    ):
        deploy.main(Arguments(**given | {"max_new_tokens": 256, "cloud": "127.0.0.1:1"}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be a number in 1"),
        ({"seed": -1}, "seed=-1 must be a number in 0"),
        ({"prompt": ("fits", " \n")}, "prompt 2 is empty"),
        ({"prompt": ("\udcff",)}, r"prompt 1, '\\udcff', is not UTF-8"),
    ],
)
def test_arguments_are_refused_before_anything_is_loaded(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Arguments(**wrong)


def test_the_seed_draws_the_link_and_where_in_it_an_answer_starts() -> None:
    radios = [deploy._radio(seed) for seed in range(24)]
    assert len({radio.trace.name for radio in radios}) > 4
    assert len({radio.offset_seconds for radio in radios}) == 24
    assert all(0 <= radio.offset_seconds < radio.trace.seconds for radio in radios)
    assert deploy._radio(5).offset_seconds == radios[5].offset_seconds
    assert deploy._radio(2**32 - 1).trace.name


def test_what_comes_next_names_what_was_given(
    given: dict[str, Any], tiny_llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = trained(tiny_llm) / "bundle"
    deploy.main(Arguments(**given | {"controller": str(bundle)}))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))
    assert f"synera evaluate --graphs GRAPHS_OF_THE_MODELS --bundle {bundle} --device-profile {given['profile']}" in line
