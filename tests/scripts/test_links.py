"""`--links` in every command that takes links, and `inspect-trace` of links."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro

from runtime.errors import SettingError
from scripts import _deploy, demo, deploy, evaluate, inspect_trace, train, validate_replay
from scripts._cli import next_step
from scripts._evaluation import Evaluation
from scripts._link_view import MOST_DRAWN
from scripts._links import links_of
from scripts.inspect_trace import LinkInspection
from synera_env import SyneraReplayEnv
from tests.support.link_files import FAMILIES, every_form
from tests.support.recorded import GPU, PHONE, recorded, tiny_training, trained
from traces import bundled
from traces.errors import TraceError
from traces.links.filling import Filling
from traces.links.generators import constant_link, markov_link
from traces.links.readers import load
from traces.links.splits import load_split
from traces.links.store import save_links
from traces.schemas import read_json

RULES = ("never", "always", "threshold", "random")
TAKING: dict[str, Callable[..., Any]] = {
    "demo": demo.Arguments,
    "deploy": deploy.Arguments,
    "evaluate": evaluate.Arguments,
    "train": train.Arguments,
    "validate-replay": validate_replay.Arguments,
}


@pytest.fixture
def files(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: graphs, profiles and a folder `links` of every form."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "validation", "test"):
        recorded(tiny_llm).graphs.save(tmp_path / f"{split}.safetensors")
    PHONE.save(tmp_path / "phone.json")
    GPU.save(tmp_path / "gpu.json")
    every_form(tmp_path / "links")
    return tmp_path


def world(**more: Any) -> dict[str, Any]:
    return {"device_profile": Path("phone.json"), "cloud_profile": Path("gpu.json"), "links": Path("links")} | more


# ---------------------------------------------------------------- what is taken


def test_without_a_path_the_bundled_links_are_taken() -> None:
    assert [link.name for link in links_of(None, Filling())("validation")] == [x.name for x in bundled.links("validation")]


def test_with_one_it_is_said_what_was_taken_and_what_was_filled(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = links_of(Path("links"), Filling(rtt_ms=9.0))("test")
    assert [link.name for link in found] == [link.name for link in load_split("links", "test")]
    said = capsys.readouterr().out
    assert (
        f"links from links, for test: {len(found)} traces of {len(FAMILIES)} families; not recorded, so filled by rule: "
        in said
    )
    assert f"rtt_ms of {sum('rtt_ms' in link.filled for link in found)}" in said
    assert next(link for link in found if link.family == "norway").rtt_ms[0] == 9.0


@pytest.mark.parametrize("name", TAKING)
def test_every_command_takes_links_and_figures_for_them_and_says_so_on_the_line(name: str) -> None:
    given = {"links": Path("my links"), "fill": Filling(rtt_ms=30.0, uplink_share=0.5)}
    line = next_step(name, **given)
    assert line == f"synera {name} --links 'my links' --fill.rtt-ms 30.0 --fill.uplink-share 0.5"
    assert tyro.cli(TAKING[name], args=["--links", "my links", "--fill.rtt-ms", "30", "--fill.uplink-share", "0.5"]) == TAKING[
        name
    ](**given)
    with pytest.raises(SettingError, match="name them with --links"):
        TAKING[name](fill=Filling(rtt_ms=30.0))


def test_a_link_that_is_not_emulated_is_refused() -> None:
    with pytest.raises(SettingError, match="leave it out, or --no-emulate-link"):
        deploy.Arguments(links=Path("links"), emulate_link=False)


# ---------------------------------------------------------------- evaluate


def test_an_evaluation_has_a_table_and_figures_for_each_family(
    files: Path, capsys: pytest.CaptureFixture[str], tiny_llm: Path
) -> None:
    shutil.copytree(trained(tiny_llm) / "bundle", files / "mine" / "bundle")
    given = world(graphs=Path("test.safetensors"), answers=6, json=Path("out.json"), bundle=(Path("mine/bundle"),))
    evaluate.main(evaluate.Arguments(**given))
    said = capsys.readouterr().out
    found = read_json("out.json", Evaluation, "no figures")
    assert (found.links, tuple(found.families)) == ("links", FAMILIES)
    assert found.planned_answers == 6 * len(FAMILIES)
    places = [said.index(f"{family}, {found.families[family].traces} trace(s) of ") for family in FAMILIES]
    assert places == sorted(places)
    assert said.index(f"replay, {found.planned_answers} answers to 6 ") > places[-1], "the table of all comes last"
    quality = {name: found.controllers[name].means["reward"] for name in RULES}
    for name in RULES:
        of_families = [family.controllers[name].means["reward"] for family in found.families.values()]
        assert quality[name] == pytest.approx(sum(of_families) / len(of_families)), "all families count alike"
    assert set(found.families["norway"].controllers) == {*RULES, "mine"}
    assert "threshold" in found.families["norway"].controllers["mine"].reward_minus
    assert set(found.families["norway"].filled) == {"rtt_ms", "uplink_mbps"}
    assert found.families["markov"].filled == {}
    seconds = {family: found.families[family].controllers["always"].means["seconds"] for family in FAMILIES}
    assert seconds["norway"] > seconds["cicv5g-n78"], "a slow link makes answers slow"
    never = {family.controllers["never"].means["seconds"] for family in found.families.values()}
    assert len(never) == 1, "who sends nothing is the same on all links"
    assert re.search(
        r"synera deploy .*--controller mine/bundle .*--links links|synera deploy .*--links links --controller mine/bundle", said
    )


def test_an_evaluation_without_links_has_no_families(files: Path) -> None:
    evaluate.main(evaluate.Arguments(**world(links=None, graphs=Path("test.safetensors"), answers=6, json=Path("out.json"))))
    found = read_json("out.json", Evaluation, "no figures")
    assert (found.links, found.families, found.planned_answers) == (None, {}, 6)


def test_an_ablation_takes_the_links_too(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[set[str]] = []

    def run(train: SyneraReplayEnv, test: SyneraReplayEnv, *_: object) -> str:
        taken.extend({link.family for link in env.links} for env in (train, test))
        return "threshold"

    monkeypatch.setattr(evaluate._ablation, "run", run)
    evaluate.main(evaluate.Arguments(**world(graphs=Path("test.safetensors"), ablation=True)))
    assert taken == [set(FAMILIES), set(FAMILIES)]


# ---------------------------------------------------------------- train


def test_a_training_writes_down_what_was_filled_and_leads_on_with_its_links(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(train.Arguments(name="mine", **tiny_training(Path(".")), **world(graphs=Path("."), fill=Filling(rtt_ms=44.0))))
    said = capsys.readouterr().out
    assert "links from links, for train: " in said
    assert "links from links, for validation: " in said
    assert re.search(r"synera evaluate .*--links links --fill.rtt-ms 44.0 ", said)
    config = json.loads(Path("runs/mine/config.json").read_text())
    for part, split in (("train", "train"), ("validation", "validation")):
        assert config[part]["links"] == list(FAMILIES)
        assert config[part]["traces"] == len(load_split("links", split))
        assert config[part]["filled"]["norway"]["rtt_ms"] == ["44 ms throughout: as given"]
        assert "markov" not in config[part]["filled"]
    meta = json.loads(Path("runs/mine/bundle/bundle.json").read_text())
    assert "44 ms throughout: as given" in json.dumps(meta)


def test_links_that_cannot_be_divided_are_refused_before_a_run_is_begun(files: Path) -> None:
    save_links([constant_link()], files / "one.json")
    with pytest.raises(TraceError, match="too few to be cut"):
        train.main(train.Arguments(name="mine", **tiny_training(Path(".")), **world(graphs=Path("."), links=Path("one.json"))))
    assert not Path("runs").exists()


# ---------------------------------------------------------------- live


def test_a_deployed_answer_starts_on_one_of_the_links() -> None:
    links = [markov_link(1), markov_link(2)]
    radios = [_deploy.radio(links, seed) for seed in range(4)]
    assert [radio.trace.name for radio in radios] == ["markov-1", "markov-2", "markov-1", "markov-2"]
    assert len({radio.offset_seconds for radio in radios}) == 4


def test_the_demo_reads_its_links_before_it_records(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_record", lambda arguments: pytest.fail("it began"))
    with pytest.raises(TraceError, match="no link trace at nowhere"):
        demo.main(demo.Arguments(out=files / "out", links=Path("nowhere")))


def test_the_demo_replays_each_family(files: Path, capsys: pytest.CaptureFixture[str], tiny_llm: Path) -> None:
    env = SyneraReplayEnv(recorded(tiny_llm).graphs, load_split("links", "test"), PHONE, GPU)
    controllers = evaluate.rules(env.schema)
    found = demo._by_family(env, controllers, demo.Arguments(links=Path("links")))
    assert tuple(found) == FAMILIES
    assert all(set(summaries) == set(RULES) for summaries in found.values())
    said = capsys.readouterr().out
    assert all(f"{family}, " in said for family in FAMILIES)


# ---------------------------------------------------------------- inspect-trace


def shown(capsys: pytest.CaptureFixture[str], path: str = "links", **more: Any) -> str:
    capsys.readouterr()
    inspect_trace.main(inspect_trace.Arguments(Path(path), **more))
    return capsys.readouterr().out


def test_links_are_shown_by_family_with_the_rules_that_filled_them(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, json=Path("out.json"))
    found = read_json("out.json", LinkInspection, "no figures").families
    assert tuple(found) == FAMILIES
    assert said.startswith(f"links: 10 link trace(s) of {len(FAMILIES)} family(s), ")
    for family in FAMILIES:
        assert re.search(rf"│ {re.escape(family)} +│ +{found[family].traces} │ +{found[family].seconds:.0f} │", said), family
    for link in load("links"):
        for name, rule in link.filled.items():
            assert rule in said
            assert found[link.family].series[name].filled == [rule]
    assert "21.1*" in said
    assert "not recorded, filled by a rule" in said
    assert Path("runs/links.png").read_bytes().startswith(b"\x89PNG")
    assert said.endswith("next: synera train --links links\n      synera evaluate --links links\n")


def test_one_file_is_shown_too_and_figures_of_a_user_are_taken(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, "links/cooked/norway_bus_0", fill=Filling(rtt_ms=77.0), picture=Path("x.svg"))
    assert "* rtt_ms of norway: 77 ms throughout: as given" in said
    assert Path("x.svg").stat().st_size > 1000
    assert not Path("runs").exists()


def test_more_families_than_there_is_room_for_are_said(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_links([markov_link(i, seconds=1.0, family=f"$f_{{{i}") for i in range(MOST_DRAWN + 3)], files / "many.json")
    assert "of 3 families more there is no room" in shown(capsys, "many.json")


@pytest.mark.parametrize(
    ("path", "wrong", "said"),
    [
        ("links", {"coverage": True}, "are of a graph file, NAME.safetensors, not of links"),
        ("links", {"prompt": 1}, "are of a graph file"),
        ("links", {"picture": Path("x.docx")}, "picture=x.docx"),
        ("links", {"json": Path("x.png"), "picture": Path("x.png")}, "a file of its own"),
        ("links.json", {"json": Path("links.json")}, "a file of its own"),
        ("x.safetensors", {"picture": Path("x.png")}, "--picture is of links, a workload"),
        ("x.safetensors", {"links": Path("links")}, "add --coverage"),
        ("x.safetensors", {"fill": Filling(rtt_ms=1.0)}, "name them with --links"),
    ],
)
def test_options_that_do_not_belong_are_refused(path: str, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=re.escape(said)):
        inspect_trace.Arguments(Path(path), **wrong)
