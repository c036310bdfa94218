"""`synera deploy`: text is shown as it is, what does not fit is refused, and an answer starts where the seed says."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.bundle import Bundle, BundleError
from agents.scalars import GROUPS
from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.device import Connection, Device, LiveSession
from runtime.errors import CheckpointError, SettingError, UnauthenticatedError
from runtime.model.frame import Frame
from runtime.sampling import Sampling
from runtime.wire import TOKEN_KEY
from scripts import _deploy, _deploy_synera, deploy
from scripts.deploy import Arguments
from synera_env import Preference, synera_schema
from synera_env.reward import named_preferences
from synera_env.synera.live import load_device
from synera_env.telemetry import AppendFile, read_run
from tests.conftest import save_tiny_llama
from tests.support.hostile import fails, hostile, info_of
from tests.support.recorded import PHONE, Recorded, recorded, trained
from traces import bundled
from traces.synera.graph import GraphSet


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


@pytest.mark.parametrize(
    ("controller", "all_are"), [("margin=1", "offload"), ("entropy=16,margin=1", "keep"), ("chance=1", "offload")]
)
def test_levels_of_a_draft_and_chance_decide_live(
    controller: str, all_are: str, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    deploy.main(Arguments(**given | {"controller": controller}))
    rows = [line.split("│")[5].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│ ")]
    assert rows
    assert set(rows) == {all_are}


def test_a_rule_that_looks_at_importance_needs_a_device_that_tells_it(given: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=r"'margin=0\.2,importance=0\.5' looks at the importance of chunks"):
        deploy.main(Arguments(**given | {"controller": "margin=0.2,importance=0.5"}))
    _deploy_synera._check_lens(load_device(), "importance=0.5")  # the bundled SLM's was recorded


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


def test_answers_are_sampled_with_a_seed_each_where_a_temperature_is_given(
    given: dict[str, Any], pair: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, plain = [], Connection.open

    def opens(self: Connection, link: object, sampling: Sampling | None) -> LiveSession:
        opened.append(sampling)
        return plain(self, None, sampling)

    monkeypatch.setattr(Connection, "open", opens)
    two = given | {"controller": "always", "prompt": ("the river .", "the river .")}
    deploy.main(Arguments(**two))
    deploy.main(Arguments(**two | {"temperature": 0.8, "top_p": 0.9, "top_k": 7, "sampling_seed": 3, "seed": 5}))
    config = Sampling(0.8, 0.9, 7, seed=3)
    assert opened == [None, None, config.of_answer(0), config.of_answer(1)]


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
        ({"temperature": -0.5}, "temperature=-0.5 must be a number in 0.01..100"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p=0 leaves no token"),
        *[
            ({name: value}, "need a temperature above 0")
            for name, value in (("top_p", 0.9), ("top_k", 5), ("sampling_seed", 1))
        ],
    ],
)
def test_arguments_are_refused_before_anything_is_loaded(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Arguments(**wrong)


def test_the_seed_draws_the_link_and_where_in_it_an_answer_starts() -> None:
    links = bundled.links("test")
    radios = [_deploy.radio(links, seed) for seed in range(24)]
    assert len({radio.trace.name for radio in radios}) > 4
    assert len({radio.offset_seconds for radio in radios}) == 24
    assert all(0 <= radio.offset_seconds < radio.trace.seconds for radio in radios)
    assert _deploy.radio(links, 5).offset_seconds == radios[5].offset_seconds
    assert _deploy.radio(links, 2**32 - 1).trace.name


def test_what_comes_next_names_what_was_given(
    given: dict[str, Any], tiny_llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = trained(tiny_llm) / "bundle"
    deploy.main(Arguments(**given | {"controller": str(bundle)}))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))
    assert f"synera evaluate --graphs GRAPHS_OF_THE_MODELS --bundle {bundle} --device-profile {given['profile']}" in line


# ---------------------------------------------------------------- how prompts are read

FRAME = Frame("Bill: ", " ?", special_tokens=False)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The tokens of every prompt that a device reads."""
    found, plain = [], Connection.encode

    def encode(self: Connection, prompt: str) -> tuple[int, ...]:
        found.append(plain(self, prompt))
        return found[-1]

    monkeypatch.setattr(Connection, "encode", encode)
    return found


def framed_bundle(folder: Path, tiny_llm: Path) -> str:
    """A bundle that was trained on prompts within a frame."""
    shutil.copytree(trained(tiny_llm) / "bundle", folder)
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"frame": asdict(FRAME)}))
    return str(folder)


def framed_graphs(path: Path, pair: Recorded) -> Path:
    """Graphs of this SLM whose prompts were within a frame."""
    pair.graphs.with_meta(replace(pair.graphs.meta, frame=FRAME.stated)).save(path)
    return path


def test_a_bundle_s_prompts_are_read_as_it_was_trained_and_that_is_said(
    given: dict[str, Any],
    pair: Recorded,
    tiny_llm: Path,
    tmp_path: Path,
    encoded: list[tuple[int, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = pair.device().tokenizer
    deploy.main(Arguments(**given | {"controller": str(trained(tiny_llm) / "bundle")}))
    assert "prompts are read" not in capsys.readouterr().out
    deploy.main(Arguments(**given | {"controller": framed_bundle(tmp_path / "framed", tiny_llm)}))
    assert "prompts are read between 'Bill: ' and ' ?', as the bundle states\n" in capsys.readouterr().out
    texts = (("the river .", True), ("Bill: the river . ?", False))
    assert encoded == [tuple(tokenizer.encode(text, add_special_tokens=special).ids) for text, special in texts]


def test_a_rule_takes_from_graphs_what_a_bundle_states(
    given: dict[str, Any],
    pair: Recorded,
    tmp_path: Path,
    encoded: list[tuple[int, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Prompts of the graphs are answered where none are named; the lens makes a rule of importance possible."""
    path = framed_graphs(tmp_path / "graphs.safetensors", pair)
    rule = given | {"graphs": path, "controller": "importance=0.5", "prompt": ()}
    deploy.main(Arguments(**rule))
    said = capsys.readouterr().out
    assert "as the graphs state\n" in said
    assert f"synera evaluate --graphs {path}" in said
    wanted = [FRAME.encode(pair.device().tokenizer, text) for text in pair.graphs.meta.prompts[:4]]
    assert [list(tokens) for tokens in encoded] == wanted
    deploy.main(Arguments(**rule | {"prompt": ("the river .",)}))
    assert len(encoded) == 5


def test_graphs_of_another_slm_are_refused(given: dict[str, Any], tmp_path: Path, akin_graphs: GraphSet) -> None:
    akin_graphs.save(tmp_path / "akin.safetensors")
    with pytest.raises(CheckpointError, match=r"akin\.safetensors was made with the SLM"):
        deploy.main(Arguments(**given | {"graphs": tmp_path / "akin.safetensors", "cloud": "127.0.0.1:1"}))


def test_all_prompts_of_a_file_are_answered_of_one_line_and_of_many(
    given: dict[str, Any], tmp_path: Path, encoded: list[tuple[int, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "the river ."}\n{"prompt": "the\\nriver", "reference": "x"}\n')
    deploy.main(Arguments(**given | {"prompt": (), "prompts": tmp_path / "prompts.jsonl", "log": tmp_path / "log"}))
    assert "the\nriver  (link real)" in capsys.readouterr().out
    assert len(encoded) == 2
    assert all(math.isnan(answer.quality) for answer in read_run(tmp_path / "log").answers)
    with pytest.raises(SettingError, match="prompt and prompts both say what is to be answered"):
        Arguments(**given | {"prompts": tmp_path / "prompts.jsonl"})


# ---------------------------------------------------------------- what is written down


def tags(folder: Path) -> set[str]:
    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag for tag in found.Tags()["scalars"] if tag.split("/")[0] in GROUPS}


def test_nothing_is_written_unless_it_is_asked_for(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    deploy.main(Arguments(**given))
    assert set(tmp_path.rglob("*")) == before


def test_a_run_that_is_written_down_lies_beside_its_training(
    given: dict[str, Any], tiny_llm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundled prompts, whose quality is known."""
    training, log = trained(tiny_llm), tmp_path / "live run"
    deploy.main(Arguments(**given | {"controller": str(training / "bundle"), "prompt": (), "log": log, "seed": 4}))
    said = capsys.readouterr().out
    answers = read_run(log).answers
    assert [answer.begun.seed for answer in answers] == [4, 5, 6, 7]
    assert all(answer.whole and not math.isnan(answer.quality) for answer in answers)
    first = answers[0].begun
    meta = Bundle.load(training / "bundle").meta
    assert (first.controller, first.link, first.prompt) == (meta.name, "real", None)
    assert first.fingerprints == meta.fingerprints | {"policy": meta.policy_sha256}
    for answer in answers:
        assert f"{answer.records[-1].committed_at:.2f} s, {sum(r.offloaded for r in answer.records)} of" in said
    unknown = {"episode/acceptance_rate", "episode/hit_rate"}  # where no chunk was offloaded, and where none was drafted ahead
    assert tags(training / "tb") - tags(log / "tb") <= unknown
    assert not tags(log / "tb") - tags(training / "tb")
    assert json.loads((log / "config.json").read_text())["arguments"]["seed"] == 4
    _, inspect, tensorboard = (shlex.split(line) for line in said.partition("next: ")[2].strip().splitlines())
    assert inspect == ["synera", "inspect-run", str(log)]
    shown = Path(tensorboard[-1]).resolve()
    assert tensorboard[:-1] == ["tensorboard", "--logdir"]
    assert log.resolve().is_relative_to(shown)
    assert training.resolve().is_relative_to(shown)


def test_prompts_of_a_user_are_kept_out_of_the_log_and_have_no_quality(given: dict[str, Any], tmp_path: Path) -> None:
    for kept in (False, True):
        log = tmp_path / f"log-{kept}"
        deploy.main(Arguments(**given | {"controller": "always", "log": log, "log_prompts": kept}))
        (answer,) = read_run(log).answers
        assert answer.begun.prompt == ("the river ." if kept else None)
        assert math.isnan(answer.quality)
        held = [path.name for path in log.rglob("*") if path.is_file() and b"the river ." in path.read_bytes()]
        assert held == (["decisions.jsonl"] if kept else [])
        assert "episode/quality" not in tags(log / "tb")


def test_an_answer_that_cannot_be_written_down_is_given_all_the_same(
    given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AppendFile, "_append", full)
    deploy.main(Arguments(**given | {"log": tmp_path / "log"}))
    said = capsys.readouterr().out
    assert "answer: " in said
    assert "records could not be written to" in said


def test_an_interrupted_run_says_where_it_lies_and_what_came_of_it(
    given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(_deploy_synera.scorers, "score", stops)
    with pytest.raises(KeyboardInterrupt):
        deploy.main(Arguments(**given | {"log": tmp_path / "log", "prompt": ()}))
    assert f"log: {tmp_path / 'log' / 'decisions.jsonl'}" in capsys.readouterr().out
    (answer,) = read_run(tmp_path / "log").answers
    assert answer.ended is not None
    assert answer.ended.error == "KeyboardInterrupt"


def test_a_folder_that_is_not_empty_is_refused_before_anything_is_loaded(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="holds files already"):
        deploy.main(Arguments(**given | {"log": tmp_path, "slm": tmp_path / "none"}))
    with pytest.raises(SettingError, match="log_prompts needs a folder"):
        Arguments(log_prompts=True)


# ---------------------------------------------------------------- what is valued, and how much may be sent


@pytest.mark.parametrize(("share", "controller"), [(0.0, "always"), (0.5, "always"), (0.4, "linucb")])
def test_a_hard_limit_holds_live_for_any_controller(
    share: float, controller: str, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy.main(
        Arguments(**given | {"controller": controller, "max_offload": share, "max_new_tokens": 12, "log": tmp_path / "run"})
    )
    (logged,) = read_run(tmp_path / "run").answers
    sent = [record.offloaded for record in logged.records]
    assert len(sent) > 2
    for t in range(1, len(sent) + 1):
        assert sum(sent[:t]) <= math.ceil(round(share * t, 9))
    assert any(sent) == (share > 0 and controller == "always") or controller != "always"


def test_what_is_preferred_by_name_is_what_is_valued_and_evaluated(given: dict[str, Any], tmp_path: Path) -> None:
    deploy.main(Arguments(**given | {"prefer": "cost", "log": tmp_path / "run"}))
    (logged,) = read_run(tmp_path / "run").answers
    assert logged.preference == named_preferences()["cost"]
    line = _deploy.evaluation(Arguments(controller="staged", prefer="cost", max_offload=0.2), None, synera_schema(exits=1), {})
    assert line == "synera evaluate --controller staged --prefer cost --max-offload 0.2"
    with pytest.raises(SettingError, match="both say what is valued"):
        Arguments(prefer="cost", preference=Preference(latency=1.0))
    with pytest.raises(SettingError, match=r"max_offload=1\.5"):
        Arguments(max_offload=1.5)


def test_a_dead_replica_beside_a_live_one_costs_nothing(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    deploy.main(Arguments(**given | {"controller": "always"}))
    alone = capsys.readouterr().out
    deploy.main(Arguments(**given | {"controller": "always", "cloud": f"127.0.0.1:1,{given['cloud']}"}))
    both = capsys.readouterr().out
    assert "went on alone" not in both
    assert [line for line in both.splitlines() if line.startswith("answer: ")] == [
        line for line in alone.splitlines() if line.startswith("answer: ")
    ]


def test_no_replica_at_all_is_told_by_all_their_names(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    deploy.main(Arguments(**given | {"cloud": "127.0.0.1:1,127.0.0.1:2"}))
    said = " ".join(capsys.readouterr().out.split())
    assert "no verifier answers at 127.0.0.1:1, 127.0.0.1:2: the device answers alone until one does" in said


def test_a_token_is_read_from_its_file_and_told_to_nobody_else(
    given: dict[str, Any], pair: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text("s3cret\n")
    refuses = {"ModelInfo": fails(grpc.StatusCode.UNAUTHENTICATED, "no such token", "UnauthenticatedError")}
    arguments = given | {"token_file": tmp_path / "token", "log": tmp_path / "log"}
    with hostile(info_of(pair.device()), refuses) as server:
        with pytest.raises(UnauthenticatedError, match=r"does not take this device \(UNAUTHENTICATED: no such token\)"):
            deploy.main(Arguments(**arguments | {"cloud": server.target}))
        assert server.metadata[0][TOKEN_KEY] == "Bearer s3cret"
    deploy.main(Arguments(**arguments))  # this verifier asks for none
    assert "s3cret" not in capsys.readouterr().out
    for file in (tmp_path / "log").rglob("*"):
        assert file.is_dir() or b"s3cret" not in file.read_bytes()
