"""`synera evaluate --live`: the same plan in replay and live, what is printed and written, and how it ends when it cannot go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import CheckpointError, CloudUnavailableError, SettingError
from scripts import _live_proof, _live_world, _sections, evaluate
from scripts._document import Section
from scripts._live_sections import LiveFile
from scripts._verifier import Verifier, verifier_process
from scripts.evaluate import Arguments
from tests.support.process import verifier_here
from tests.support.recorded import GPU, PHONE, Recorded, recorded
from traces import bundled
from traces.links.generators import constant_link, markov_link
from traces.links.store import save_links
from traces.schemas import read_json


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture
def folder(pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: graphs, profiles, and a link that is fast."""
    monkeypatch.chdir(tmp_path)
    pair.graphs.save(tmp_path / "test.safetensors")
    PHONE.save(tmp_path / "phone.json")
    GPU.save(tmp_path / "gpu.json")
    (tmp_path / "links").mkdir()
    save_links([markov_link(3, seconds=20.0, family="lift"), constant_link(20.0)], tmp_path / "links" / "test.json")
    return tmp_path


def arguments(pair: Recorded, **more: Any) -> Arguments:
    world = {"graphs": Path("test.safetensors"), "device_profile": Path("phone.json"), "cloud_profile": Path("gpu.json")}
    models = {"slm": pair.slm, "llm": pair.llm, "links": Path("links")}
    return Arguments(**world | models | {"answers": 2, "live": 2} | more)


def test_both_worlds_are_compared_and_the_link_breaks(pair: Recorded, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main(arguments(pair, controller=("ucbspec",), break_link=True, json=Path("out.json"), max_offload=0.5))
    said = capsys.readouterr().out
    assert "live: 30 answers of 5 controllers, 2 device(s) at a time, take about" in said
    assert said.index("take about") < said.index("Replay and live")
    assert "on links of the families lift;" in said  # bundled training links are constant, too
    assert "Spearman's rank correlation of mean rewards over 5 controllers" in said
    assert "tokens the replay reproduces from the live knobs: 1.000." in said
    assert "next: synera serve" in said
    assert "--controller ucbspec" in said
    found = read_json("out.json", LiveFile, "no figures")
    assert (found.devices, found.planned_answers, found.families) == (2, 2, ("lift",))
    assert set(found.controllers) == {"never", "always", "threshold", "random", "ucbspec"}
    for name, each in found.controllers.items():
        assert each.tokens_identical == 1.0
        assert set(each.reward_minus) == (set() if name == "threshold" else {"threshold"})
        assert set(each.breaks) == {"replay", "live"}
    for name in ("never", "always", "threshold", "random"):  # which look at no time
        rates = [found.controllers[name].means[world]["offload_rate"] for world in ("replay", "live")]
        assert rates[0] == pytest.approx(rates[1])
    assert found.controllers["always"].means["live"]["offload_rate"] < 1.0  # held to the limit
    for picture in ("runs/evaluate.png", "runs/evaluate-break.png"):
        assert Path(picture).read_bytes().startswith(b"\x89PNG")


def test_a_report_has_the_live_answers_as_sections(pair: Recorded, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sections, "_aggregated", lambda _: Section("Aggregates over tasks"))  # rliable takes its time
    monkeypatch.setattr(_live_world, "verifier_process", verifier_here)
    Path("mix.yaml").write_text("links: [20]\n")
    evaluate.main(arguments(pair, scenarios="mix.yaml", report=Path("found"), break_link=True))
    report = (folder / "found" / "report.md").read_text()
    assert "## Replay against live" in report
    assert "## A link that breaks" in report
    assert "threshold, live: " in report
    for picture in ("worlds", "broken-1"):
        assert (folder / "found" / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "runs").exists()


def test_a_verifier_that_is_killed_ends_it_in_a_sentence_and_leaves_nothing_behind(
    pair: Recorded, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices go on alone, so its answers would be the SLM's and be taken for the cloud's."""
    killed: list[Verifier] = []

    @contextmanager
    def dying(**given: Any) -> Iterator[Verifier]:
        with verifier_process(**given) as verifier:
            os.kill(verifier._process.pid, signal.SIGKILL)
            verifier._process.wait()
            killed.append(verifier)
            yield verifier

    monkeypatch.setattr(_live_world, "verifier_process", dying)
    with pytest.raises(CloudUnavailableError) as raised:
        evaluate.main(arguments(pair))
    assert "\n" not in str(raised.value)
    assert killed
    assert not (folder / "runs").exists()


def test_a_process_that_is_told_to_end_ends_its_verifier(pair: Recorded, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Verifier] = []

    @contextmanager
    def told(**given: Any) -> Iterator[Verifier]:
        with verifier_process(**given) as verifier:
            started.append(verifier)
            os.kill(os.getpid(), signal.SIGTERM)
            yield verifier

    monkeypatch.setattr(_live_world, "verifier_process", told)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(arguments(pair, grow="no"))
    assert [each._process.poll() is not None for each in started] == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_models_are_refused_before_anybody_answers(pair: Recorded, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_live_proof, "make_plan", lambda *_: pytest.fail("it began"))
    with pytest.raises(CheckpointError, match=r"recorded with the LLM .* name the folder of the one with --llm"):
        evaluate.main(arguments(pair, llm=pair.slm, grow="no"))
    with pytest.raises(SettingError, match=r"does not say where the SLM is .* name its folder with --slm"):
        evaluate.main(arguments(pair, slm=None, llm=None, grow="no"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"live": 0}, "live=0"),
        ({"live": 257}, "live=257"),
        ({"live": 1, "workload": Path("w.csv")}, "leave out --ablation and --workload"),
        ({"live": 1, "ablation": True}, "leave out --ablation and --workload"),
        ({"break_link": True}, "say with --live how many devices"),
    ],
)
def test_what_live_answers_cannot_do_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        Arguments(**wrong)


def test_live_answers_meet_families_that_no_bundled_training_has() -> None:
    tested = bundled.links("test")
    assert {tested[place].family for place in _live_proof._unseen(tested)} == {"remote"}
    known = [link for link in tested if link.family != "remote"]
    assert _live_proof._unseen(known) == [*range(len(known))]
