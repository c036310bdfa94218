"""`synera inspect-run`: means by controller, one answer chunk by chunk, and what is left out is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.live_run import LiveRun
from runtime.errors import SettingError
from scripts import inspect_run
from scripts.inspect_run import Arguments
from synera_env import Preference, TraceError, synera_schema
from synera_env.telemetry import DECISIONS
from tests.support.records import draft, record, verdict

HOSTILE = "\x1b[2J[bold]\u202e"


def live(folder: Path, controller: str = "always", seconds: float = 2.0, answers: int = 2, **more: Any) -> Path:
    """A run whose answers take so long."""
    given: dict[str, Any] = {"fingerprints": {}, "configuration": {}}
    with LiveRun(folder, synera_schema(2), controller=controller, **given | more) as run:
        for number in range(answers):
            with run.answer(f"{HOSTILE} {number}", 12, preference=Preference(), link=HOSTILE) as told:
                told.settled(record(draft((0.9, 0.25)), verdict(1), at=seconds / 2))
                told.settled(record(error=f"gone {HOSTILE}", at=seconds))
                told.quality = 0.5
    return folder


def shown(capsys: pytest.CaptureFixture[str], *runs: Path, answer: int | None = None) -> str:
    capsys.readouterr()
    inspect_run.main(Arguments(runs, answer))
    said = capsys.readouterr().out
    assert not {"\x1b", "\u202e"} & set(said)
    return said


def test_a_run_is_a_row_with_its_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, live(tmp_path / "a"))
    assert "live, 2 answers" in said
    (row,) = [line.split() for line in said.splitlines() if "always" in line]
    assert {"0.500", "1000", "2.00", "1.000", "0.020"} <= set(row)  # quality, TTFT, s/answer, offload rate, cloud s
    assert "uncovered" not in said, "live answers leave no graph"
    assert "not counted" not in said
    assert f"next: synera inspect-run {tmp_path / 'a'} --answer 1" in said


def test_runs_lie_side_by_side_each_by_its_own_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, live(tmp_path / "a", seconds=2.0), live(tmp_path / "b", seconds=4.0) / DECISIONS)
    rows = [line for line in said.splitlines() if "always" in line]
    assert ["always (a) " in rows[0], " 2.00 " in rows[0]] == [True, True]
    assert ["always (b) " in rows[1], " 4.00 " in rows[1]] == [True, True]
    alike = shown(capsys, tmp_path / "a", live(tmp_path / "c" / "a"))
    assert "always (c/a) " in alike


def test_an_answer_is_a_line_a_chunk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, live(tmp_path / "a", keep_prompts=True), answer=2)
    offloaded, lost = (line for line in said.splitlines() if line.startswith("│"))
    assert offloaded.replace("│", " ").split()[:8] == ["1", "offload", "0.250", "2", "1/2", "2", "0.250", "0.500"]
    assert lost.replace("│", " ").split()[:5] == ["2", "lost", "0.500", "2", "2"]
    assert offloaded.replace("│", " ").split()[-7:] == ["0", "0", "-1", "1", "4", "1", "0"]
    assert "knobs: confidence_threshold, importance_threshold, " in said
    assert "prompt: \\x1b[2J[bold]\\u202e 1" in said
    assert "the cloud was lost for 1 chunks: gone \\x1b[2J" in said
    assert "4 tokens, 2.00 s, 1.00 J, quality 0.500" in said


def test_what_is_not_counted_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = live(tmp_path / "a", answers=4) / DECISIONS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], *lines[5:-1], lines[-1][:20]]))  # the end of 1, the beginning of 2, most of the last
    said = shown(capsys, path)
    assert "live, 1 answers" in said
    wanted = ("2 of 3 answers are not whole", "3 lines are of answers whose beginning is not there", "a last line is cut off")
    assert [each for each in wanted if each not in said] == []
    assert "this answer is not whole" in shown(capsys, path, answer=4)


def test_what_cannot_be_shown_is_named(tmp_path: Path) -> None:
    path = live(tmp_path / "a", answers=1)
    with pytest.raises(SettingError, match="the run has no answer 2; it has 1 answers"):
        inspect_run.main(Arguments((path,), 2))
    with pytest.raises(SettingError, match="answer=1 is of one run, and 2 are named"):
        Arguments((path, path), 1)
    with pytest.raises(SettingError, match="no run is named"):
        Arguments(())
    with pytest.raises(TraceError, match="holds no answer that was given to its end"):
        inspect_run.main(Arguments((live(tmp_path / "b", answers=0),)))
