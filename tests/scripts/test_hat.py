"""HAT from the prompts to a live answer, by the commands of a user: record, look, train, evaluate, serve, deploy, look again."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.errors import CloudUnavailableError, SettingError, UnauthenticatedError
from runtime.model.split import Split
from scripts import __main__ as command
from scripts import deploy, evaluate, inspect_trace, make_certs, record, train
from scripts._evaluation import Evaluation
from scripts._systems import check_options
from scripts.inspect_trace import HatInspection
from synera_env import Preference
from synera_env.hat.replay import HatReplayEnv
from synera_env.metrics import episode_metrics
from synera_env.telemetry import read_run
from tests.support.hat import prompts, recorded_hat, save_heads, save_splits, split_world
from tests.support.recorded import GPU, PHONE, tiny_training
from traces.hat.graph import HatGraphs
from traces.hat.inspection import figures
from traces.schemas import read_json


@pytest.fixture(scope="module")
def server(tiny_deep: Path) -> Iterator[str]:
    with running_server(ServerConfig(model=tiny_deep, split=Split(1))) as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture
def user(tiny_deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a model, its adapter, graphs and profiles."""
    monkeypatch.chdir(tmp_path)
    world = split_world(tiny_deep)
    Path("model").symlink_to(world.model)
    Path("adapter").symlink_to(world.adapter)
    save_splits(tiny_deep, Path("graphs"))
    PHONE.save(Path("phone.json"))
    GPU.save(Path("gpu.json"))
    return tmp_path


MODELS = ("--model", "model", "--adapter", "adapter")
PROFILES = ("--device-profile", "phone.json", "--cloud-profile", "gpu.json")
LIVE = (*MODELS, "--profile", "phone.json", "--unpaced", "--no-emulate-link")


def synera(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command, with --system hat; return what it says."""
    monkeypatch.setattr(sys, "argv", ["synera", *map(str, words), "--system", "hat"])
    command.main()
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def synera_plain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command of every system."""
    monkeypatch.setattr(sys, "argv", ["synera", *map(str, words)])
    command.main()
    return capsys.readouterr().out


def following(said: str) -> list[list[str]]:
    """The commands that are to be typed next, as words; each can be read by its command."""
    found = [shlex.split(line, comments=True) for line in re.findall(r"^(?:next:|\s{5}) +(synera .*)$", said, re.MULTILINE)]
    scripts = {"train": train, "evaluate": evaluate, "deploy": deploy, "record": record, "inspect-trace": inspect_trace}
    for _, name, *words in found:
        if name in scripts:
            tyro.cli(scripts[name].Arguments, args=words)
    return found


# ---------------------------------------------------------------- the whole way


def test_from_prompts_to_a_live_answer(
    user: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = synera(monkeypatch, capsys, "record", *MODELS, "--per-kind", 2, "--max-new-tokens", 8, "--threads", 1)
    assert "answers changed by int8" in said
    (trains,) = following(said)
    assert trains == ["synera", "train", "--system", "hat", "--name", "own-hat", "--graphs", "runs/hat-graphs"]
    graphs = HatGraphs.load("runs/hat-graphs/train.safetensors")
    assert (len(graphs), graphs.meta.scorer, graphs.meta.notes["adapter"]) == (8, "tinyworld", "adapter")
    assert len(HatGraphs.load("runs/hat-graphs/test.safetensors")) == 4

    little = [f"--{name}={value}" for name, value in tiny_training(user).items() if name != "settings"]
    little += ["--settings", str(tiny_training(user)["settings"]), "--first-token-weight", "2"]
    said = synera(monkeypatch, capsys, *trains[1:2], *trains[4:], *PROFILES, *little)
    assert "bundle: runs/own-hat/bundle\n" in said
    (evaluates,) = following(said)
    stated = json.loads(Path("runs/own-hat/bundle/bundle.json").read_text())
    assert stated["system"] == "hat"
    assert set(stated["fingerprints"]) == {"model", "adapter", "tokenizer", "split"}
    assert evaluates[:6] == ["synera", "evaluate", "--graphs", "runs/hat-graphs/test.safetensors", "--system", "hat"]
    assert "--first-token-weight 2.0 " in " ".join(evaluates)

    tested = [word for word in evaluates[2:] if word not in ("--system", "hat")]
    said = synera(monkeypatch, capsys, "evaluate", *tested, "--answers", 2, "--json", "runs/e.json")
    serves, deploys = following(said)
    assert serves == ["synera", "serve", "--model", "model", "--split", "1:0"]
    assert deploys[:4] == ["synera", "deploy", "--system", "hat"]
    assert "runs/own-hat/bundle" in deploys

    given = [word for word in deploys[2:] if word not in ("--system", "hat")]
    quick = ("--cloud", server, "--unpaced", "--no-emulate-link", "--prompt", prompts()[0], "--log", "runs/live")
    said = synera(monkeypatch, capsys, "deploy", *given, *quick)
    assert "log: runs/live/decisions.jsonl" in said
    (answer,) = read_run("runs/live").answers
    assert answer.whole
    assert answer.begun.fingerprints == stated["fingerprints"] | {"policy": stated["policy_sha256"]}


def test_medusa_heads_are_named_where_an_adapter_is(
    user: Path, tiny_deep: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_heads(Path("heads"), tiny_deep, 1)
    models = ("--model", "model", "--adapter", "heads")
    synera(monkeypatch, capsys, "record", *models, "--per-kind", 1, "--max-new-tokens", 8, "--splits", "test")
    graphs = HatGraphs.load("runs/hat-graphs/test.safetensors")
    assert (graphs.meta.medusa_heads, graphs.meta.notes["adapter"]) == (3, "heads")
    assert "3 Medusa heads" in synera_plain(monkeypatch, capsys, "inspect-trace", "runs/hat-graphs/test.safetensors")
    said = synera(
        monkeypatch,
        capsys,
        "evaluate",
        "--graphs",
        "runs/hat-graphs/test.safetensors",
        *PROFILES,
        "--answers",
        2,
        "--json",
        "e.json",
    )
    assert "--adapter heads" in said
    quick = ("--profile", "phone.json", "--cloud", server, "--unpaced", "--no-emulate-link", "--prompt", prompts()[0])
    said = synera(monkeypatch, capsys, "deploy", *models, *quick, "--controller", "drafts", "--max-new-tokens", 8)
    assert "draft" in said
    assert "tokens a draft" in said


# ---------------------------------------------------------------- record


def test_own_prompts_are_their_own_questions_and_compared_with_the_models_answer(
    user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("prompts.txt").write_text("\n".join(f"the river {n} ." for n in range(10)))
    words = (*MODELS, "--prompts", "prompts.txt", "--splits", "test", "--max-new-tokens", 6, "--out", "own", "--threads", 1)
    following(synera(monkeypatch, capsys, "record", *words))
    graphs = HatGraphs.load("own/test.safetensors")
    meta = graphs.meta
    assert meta.scorer == "agreement-f1"
    assert meta.questions == meta.prompts
    for number in range(len(graphs)):
        assert graphs.graph(number, 0).score == 1.0, "in fp32 it is the model's own answer"


def test_references_score_where_there_are_some(
    user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"prompt": f"the river {n} .", "reference": "river"}) for n in range(10)]
    Path("prompts.jsonl").write_text("\n".join(lines))
    words = (*MODELS, "--prompts", "prompts.jsonl", "--splits", "validation", "--max-new-tokens", 4, "--out", "own")
    said = synera(monkeypatch, capsys, "record", *words, "--threads", 1)
    assert "next: the same command with --splits train, then synera train --system hat\n" in said
    assert HatGraphs.load("own/validation.safetensors").meta.scorer == "token-f1"


# ---------------------------------------------------------------- inspect-trace


def test_what_a_file_holds_is_shown_and_written_down(user: Path, tiny_deep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect_trace.main(inspect_trace.Arguments(Path("graphs/test.safetensors"), json=Path("i.json")))
    said, found = capsys.readouterr().out, figures(recorded_hat(tiny_deep))
    assert f"{found.first_drafts_right:.1%} of first draft tokens are the model's" in said
    assert f"int8 {found.answers_changed['int8']:.2%}" in said
    assert following(said) == [["synera", "evaluate", "--system", "hat", "--graphs", "graphs/test.safetensors"]]
    assert read_json(Path("i.json"), HatInspection, "missing").figures == found
    inspect_trace.main(inspect_trace.Arguments(Path("graphs/train.safetensors"), prompt=2, lines=3))
    said = capsys.readouterr().out
    assert "prompt 2 " in said
    assert "17 more; --lines shows them" in said
    assert following(said) == [["synera", "train", "--system", "hat", "--graphs", "graphs"]]


@pytest.mark.parametrize("wrong", [{"coverage": True}, {"prompt": 1, "picture": Path("x.png")}])
def test_what_no_such_file_has_is_refused(user: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="holds HAT's graphs: they are always whole, so leave out --coverage"):
        inspect_trace.main(inspect_trace.Arguments(Path("graphs/test.safetensors"), **wrong))
    with pytest.raises(SettingError, match="the file has no prompt 9; it has 8 prompts"):
        inspect_trace.main(inspect_trace.Arguments(Path("graphs/test.safetensors"), prompt=9))


# ---------------------------------------------------------------- train and evaluate


def test_test_graphs_that_are_not_there_are_to_be_recorded_first(user: Path) -> None:
    Path("graphs/test.safetensors").unlink()
    arguments = train.Arguments(system="hat", graphs=Path("graphs"))
    line, *_ = train._next(arguments, Path("runs/x/bundle"))
    assert line.startswith("synera record --splits test --system hat --out graphs ")
    assert train._next(train.Arguments(system="hat"), Path("x"))[0] == "synera evaluate --system hat --bundle x"


def test_rules_are_compared_with_the_papers_by_their_uploads(
    user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("evaluate", "--graphs", "graphs/test.safetensors", *PROFILES, "--answers", 4, "--json", "e.json")
    said = synera(monkeypatch, capsys, *words, "--controller", "tests.scripts.test_hat:Longest", "--prefer", "speed")
    header = next(line for line in said.splitlines() if "TTFT ms" in line)
    assert all(name in header for name in ("TBT ms", "uploads", "accepted", "kB up", "reward"))
    assert "offload" not in header
    assert "reward of tests.scripts.test_hat:Longest minus hat-rule" in said
    controllers = read_json(Path("e.json"), Evaluation, "missing").controllers
    assert {"u-shape", "u-sarathi", "drafts", "hat-fixed", "hat-rule", "random"} < set(controllers)
    assert all(each.uncovered_rate == 0 for each in controllers.values())


class Longest:
    """A user's own rule: the longest drafts, whatever is seen."""

    def __init__(self, schema: Any) -> None:
        self._action = schema.action(schema.presets["drafts"])

    def predict(self, observation: Any, state: Any = None, start: Any = None, deterministic: bool = False) -> Any:
        return self._action, state


def test_the_best_fixed_setting_is_searched_and_then_compared_with(
    user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "_SEARCHED_ANSWERS", 2)
    words = ("evaluate", "--graphs", "graphs/test.safetensors", *PROFILES, "--answers", 2, "--search")
    said = synera(monkeypatch, capsys, *words, "--controller", "tests.scripts.test_hat:Longest")
    assert re.search(r"best of \d+ fixed settings on training prompts: Knobs\(chunk_doublings=", said)
    assert "minus best fixed" in said


# ---------------------------------------------------------------- deploy


def test_each_upload_is_shown_with_what_came_of_it(
    user: Path, server: str, tiny_deep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*LIVE, "--cloud", server, "--controller", "hat-fixed", "--max-new-tokens", 6, "--prompt", "the river [bold] .")
    said = synera(monkeypatch, capsys, "deploy", *words)
    assert "the river [bold] .  (" in said
    assert re.search(r"│ +1 │ prompt, \d+ tokens ", said)
    assert "│ draft " in said
    assert re.search(r"first token after \d+ ms, then [\d.]+ ms a token; [\d.]+ tokens a draft, \d+ bytes up, \d+ down", said)
    world = split_world(tiny_deep)
    wanted = world.device.text(world.greedy(world.device.encode("the river [bold] ."), "bf16")[:6])
    assert f"answer: {wanted}\n" in said
    assert following(said) == [
        [
            *["synera", "evaluate", "--system", "hat", "--graphs", "GRAPHS_OF_THE_MODELS", "--controller", "hat-fixed"][:6],
            "--device-profile",
            "phone.json",
        ]
    ]


def test_bundled_prompts_are_long_and_their_answers_are_scored_in_the_log(
    user: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*LIVE, "--cloud", server, "--controller", "u-sarathi", "--max-new-tokens", 3, "--log", "log", "--log-prompts")
    said = synera(monkeypatch, capsys, "deploy", *words)
    assert said.count("\nanswer: ") == 4
    answers = read_run("log").answers
    assert min(answer.begun.prompt_tokens for answer in answers) > 50
    assert all(answer.whole and not math.isnan(answer.quality) for answer in answers)
    assert all(sum(len(record.replies) for record in answer.records) == len(answer.records) for answer in answers)
    held = Path("log/decisions.jsonl").read_text()
    assert '"states"' not in held, "hidden states are in no log"
    monkeypatch.setattr(sys, "argv", ["synera", "inspect-run", "log", "--answer", "1"])
    command.main()
    assert "chunk_doublings" in capsys.readouterr().out


def test_the_reward_that_is_written_down_is_the_one_that_the_environment_gives(
    user: Path, server: str, tiny_deep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weighted = ("--first-token-weight", "5", "--preference.latency", "2")
    words = (*LIVE, "--cloud", server, "--controller", "u-sarathi", "--max-new-tokens", 3, "--log", "log", *weighted)
    said = synera(monkeypatch, capsys, "deploy", *words)
    assert "--first-token-weight 5.0 " in said
    env = HatReplayEnv(recorded_hat(tiny_deep), first_token_weight=5.0)
    for answer in read_run("log").answers:
        assert answer.ended is not None
        wanted = env.metrics(answer.records, answer.quality, Preference(latency=2.0)).reward
        assert answer.ended.metrics["reward"] == pytest.approx(wanted)
        assert answer.metrics().reward == pytest.approx(wanted)
        plain = episode_metrics(answer.records, answer.quality, Preference(latency=2.0))
        assert wanted == pytest.approx(plain.reward - 2.0 * 4.0 * plain.ttft_seconds)
    events = EventAccumulator("log/tb")
    events.Reload()
    latency = [each.value for each in events.Scalars("reward_terms/latency")]
    paid = [answer.metrics().seconds + 4.0 * answer.metrics().ttft_seconds for answer in read_run("log").answers]
    assert latency == pytest.approx([-2.0 * each for each in paid])


def test_prompts_of_graphs_are_answered_and_cut_as_they_were(
    user: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*LIVE, "--cloud", server, "--graphs", "graphs/test.safetensors", "--log", "log")
    said = synera(monkeypatch, capsys, "deploy", *words)
    answers = read_run("log").answers
    assert [len(answer.records) > 1 for answer in answers] == [True] * 4
    assert max(sum(len(r.committed) for r in answer.records) for answer in answers) == 20
    assert "synera evaluate --system hat --graphs graphs/test.safetensors" in said


def test_without_a_server_of_the_middle_nothing_can_be_answered(user: Path, tiny_deep: Path) -> None:
    given: dict[str, Any] = {"system": "hat", "model": Path("model"), "adapter": Path("adapter"), "unpaced": True}
    with pytest.raises(CloudUnavailableError, match=r"synera serve --split 1:0; a device without the middle layers"):
        deploy.main(deploy.Arguments(**given, cloud="127.0.0.1:1"))
    with pytest.raises(SettingError, match=r"--cloud stands for 2 servers"):
        deploy.main(deploy.Arguments(**given, cloud="127.0.0.1:1,127.0.0.1:2"))
    with (
        running_server(ServerConfig(model=tiny_deep)) as port,
        pytest.raises(Exception, match="serves a whole model; have it serve the middle: synera serve --split 1:0"),
    ):
        deploy.main(deploy.Arguments(**given, cloud=f"127.0.0.1:{port}"))


# ---------------------------------------------------------------- deploy, to a server that asks who is there


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `synera make-certs` makes for a server and a phone."""
    folder = tmp_path_factory.mktemp("tls") / "certs"
    make_certs.main(make_certs.Arguments(folder, clients=("phone",), tokens=("phone",)))
    return folder


@pytest.fixture(scope="module")
def guarded(tiny_deep: Path, certs: Path) -> Iterator[str]:
    """A server of the middle that wants a certificate and a token of its devices."""
    tls = {"tls_certificate": certs / "server.pem", "tls_key": certs / "server-key.pem", "tls_ca": certs / "ca.pem"}
    with running_server(ServerConfig(model=tiny_deep, split=Split(1), tokens=certs / "tokens", **tls)) as port:  # type: ignore[arg-type]
        yield f"localhost:{port}"


def shown(certs: Path, *without: str) -> list[str]:
    """What a device names of its credentials, less some."""
    own = certs / "clients" / "phone"
    given = {
        "--tls-ca": certs / "ca.pem",
        "--tls-cert": own / "cert.pem",
        "--tls-key": own / "key.pem",
        "--token-file": own / "token",
    }
    return [str(word) for name, path in given.items() if name not in without for word in (name, path)]


def test_hidden_states_travel_by_mutual_tls_under_the_devices_token(
    user: Path,
    guarded: str,
    certs: Path,
    tiny_deep: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = (*LIVE, "--cloud", guarded, "--max-new-tokens", 6, "--prompt", prompts()[0], "--log", "log")
    said = synera(monkeypatch, capsys, "deploy", *words, *shown(certs))
    world = split_world(tiny_deep)
    wanted = world.device.text(world.greedy(world.device.encode(prompts()[0]), "bf16")[:6])
    assert f"answer: {wanted}\n" in said
    (answer,) = read_run("log").answers
    assert not any(record.error for record in answer.records)
    secret = (certs / "clients/phone/token").read_text().strip()
    assert secret not in said
    assert not any(secret.encode() in each.read_bytes() for each in Path("log").rglob("*") if each.is_file())


@pytest.mark.parametrize(
    ("without", "kind", "named"),
    [
        (("--token-file",), UnauthenticatedError, "does not take this device"),
        (("--tls-cert", "--tls-key"), CloudUnavailableError, "no verifier answers"),
    ],
)
def test_a_device_that_does_not_say_who_it_is_is_told_so_and_sends_no_state(
    without: tuple[str, ...], kind: type[Exception], named: str, user: Path, guarded: str, certs: Path
) -> None:
    words = (
        *MODELS,
        "--profile",
        "phone.json",
        "--unpaced",
        "--no-emulate-link",
        "--cloud",
        guarded,
        "--prompt",
        "the river .",
    )
    arguments = tyro.cli(deploy.Arguments, args=[*words, "--system", "hat", "--log", "log", *shown(certs, *without)])
    with pytest.raises(kind, match=named):
        deploy.main(arguments)
    assert not Path("log").exists()


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("kind", "wrong", "named"),
    [
        (train.Arguments, {"slm": Path("x")}, "--slm is of --system synera"),
        (train.Arguments, {"grow": "no"}, "--grow is of --system synera"),
        (train.Arguments, {"agent": "counterfactual"}, "counterfactual training tries each chunk both kept and offloaded"),
        (evaluate.Arguments, {"ablation": True}, "--ablation is of --system synera"),
        (evaluate.Arguments, {"live": 2}, "--live is of --system synera"),
        (evaluate.Arguments, {"scenarios": "mix"}, "--scenarios is of --system synera"),
        (evaluate.Arguments, {"max_offload": 0.5}, "--max-offload is of --system synera"),
        (record.Arguments, {"lens": Path("x")}, "--lens is of --system synera"),
        (record.Arguments, {"node_budget": 3}, "--node-budget is of --system synera"),
        (deploy.Arguments, {"slm": Path("x")}, "--slm is of --system synera"),
        (deploy.Arguments, {"temperature": 0.5}, "--temperature is of --system synera"),
    ],
)
def test_what_is_of_another_system_is_refused_by_its_name(kind: Any, wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        kind(system="hat", **wrong)
    assert kind(**wrong).system == "synera"


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (train.Arguments, {"first_token_weight": 2.0}),
        (evaluate.Arguments, {"first_token_weight": 2.0}),
        (record.Arguments, {"adapter": Path("x")}),
        (deploy.Arguments, {"model": Path("x")}),
        (deploy.Arguments, {"first_token_weight": 2.0}),
    ],
)
def test_so_is_what_is_of_hat_alone(kind: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=r"is of --system hat, and this is of synera; leave out --"):
        kind(**wrong)
    check_options(kind(system="hat", **wrong), {"hat": tuple(wrong)})
