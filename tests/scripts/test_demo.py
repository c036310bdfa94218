"""`synera demo`: its arguments, a verifier that dies under it, and what it counts; the whole path is `make demo`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.evaluation import Answered
from runtime.errors import CloudUnavailableError, SettingError
from runtime.session import Cost, StepRecord
from scripts import _live_world, demo
from scripts.demo import Arguments
from traces.errors import TraceError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_per_kind": 0}, "train_per_kind=0"),
        ({"test_per_kind": -1}, "test_per_kind=-1"),
        ({"test_per_kind": 10**400}, "test_per_kind=1000"),
        ({"devices": 0}, "devices=0"),
        ({"devices": 1000}, "devices=1000"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_arguments_are_refused_before_anything_is_recorded(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Arguments(**wrong)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_record", lambda arguments: pytest.fail("it began"))
    (tmp_path / "file").write_text("precious")
    for place in ("file", "file/below", "x" * 300):
        with pytest.raises(TraceError, match="cannot write to"):
            demo.main(Arguments(out=tmp_path / place))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_prompts_that_are_not_there_are_missed_before_any_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(split: str, per_kind: int, seed: int) -> list[Any]:
        if split == "test":
            raise SettingError("fewer than that")
        return []

    monkeypatch.setattr(demo, "bundled_prompts", none_left)
    monkeypatch.setattr(demo.recording, "record", lambda *_: pytest.fail("it began"))
    with pytest.raises(SettingError, match="fewer than that"):
        demo._record(Arguments(out=tmp_path))


def test_a_verifier_that_dies_under_the_demo_ends_it_at_the_next_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices go on alone, so without a look at the verifier all answers would be the SLM's, and be taken for the cloud's."""
    asked = []

    def check() -> None:
        asked.append(len(asked))
        if len(asked) == 3:
            raise CloudUnavailableError("the verifier ended by itself")

    @contextmanager
    def process(**_: Any) -> Iterator[Any]:
        yield SimpleNamespace(target="127.0.0.1:1", check=check)

    def fleets(make: Any, controllers: Any, plan: list[int], devices: int, on_answer: Callable[[], None]) -> dict[str, Any]:
        for _ in range(len(controllers) * len(plan)):
            on_answer()
        return {}

    monkeypatch.setattr(_live_world, "verifier_process", process)
    monkeypatch.setattr(demo, "run_fleets", fleets)
    graphs = demo._Graphs(*[demo.GraphSet.load(demo.bundled.graphs("test"))] * 4)  # type: ignore[arg-type]
    profile = demo.DeviceProfile.load(demo.bundled.profile("phone"))
    with pytest.raises(CloudUnavailableError, match="ended by itself"):
        demo._deploy(Arguments(out=tmp_path), graphs, [], profile, {"a": None, "b": None}, [0, 1])  # type: ignore[dict-item, list-item]
    assert len(asked) == 3


def test_lost_checks_are_counted_over_all_answers() -> None:
    def record(error: str | None) -> StepRecord:
        return StepRecord(knobs=None, cost=Cost(), committed=(1,), committed_at=1.0, offloaded=True, error=error)

    answers = [
        Answered(0, "", None, (record(None), record("gone")), ()),
        Answered(1, "", None, (record("gone"), record("gone")), ()),
        Answered(2, "", None, (), ()),
    ]
    assert demo._lost_checks(answers) == 3
