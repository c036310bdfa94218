"""`synera reproduce hat`: the table, what is said of it, and what if."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runtime.errors import SettingError
from scripts import reproduce
from scripts.reproduce import Arguments
from traces.hat.testbed import FITTED, FITTED_TO_SOME, GUESSED, METHODS

SHORT = {"seeds": 2, "answers": 5}


def test_the_table_stands_beside_the_papers_and_says_what_is_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, picture = tmp_path / "new" / "hat.json", tmp_path / "hat.png"
    reproduce.main(Arguments("hat", picture=picture, json=figures, **SHORT))  # type: ignore[arg-type]
    said = capsys.readouterr().out
    for method in METHODS:
        assert re.search(rf"{re.escape(method.name)}\s.*\s{method.ttft_ms}\s.*\s{method.tbt_ms}\s", said)
    assert re.search(r"\d+ of 10 figures are within 10% of the paper's; the worst is off by \d", said)
    for heading in (
        "What it goes by: the paper's, derived from it, ours (assumed), fitted",
        "What is fitted, and what predicted",
    ):
        assert heading in said
    for view in ("fitted to all 10 figures", "fitted to u-shape", "not fitted (guesses)"):
        assert view in said
    assert "the paper says 1.65 x; nothing is fitted to it" in said
    assert f"picture: {picture}\n" in said
    assert said.endswith("next: synera reproduce hat --uplink-mbps 20   # what if\n")
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = json.loads(figures.read_text())
    assert found["simulated"] is True
    assert [row["method"]["key"] for row in found["rows"]] == [method.key for method in METHODS]
    assert found["fitted"]["hit_rate"] == FITTED.hit_rate
    assert len(found["views"]) == 2


def test_the_same_seed_gives_the_same_figures_and_rows_are_those_of_the_whole_table(tmp_path: Path) -> None:
    def rows(name: str, **asked: object) -> list[dict[str, object]]:
        reproduce.main(Arguments("hat", json=tmp_path / name, **SHORT | asked))  # type: ignore[arg-type]
        return json.loads((tmp_path / name).read_text())["rows"]

    some = rows("a", rows=("both", "u-shape"), rate=2.0)
    assert some == rows("b", rows=("u-shape", "both"), rate=2.0)
    assert some == [row for row in rows("c", rate=2.0) if row["method"]["key"] in ("u-shape", "both")]  # type: ignore[index]
    assert some != rows("d", rows=("both", "u-shape"), rate=2.0, seed=1)


def test_what_if_has_no_papers_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"devices": 2, "uplink_mbps": 8.0, "prompt_tokens": 500, "rows": ("u-shape", "both")}
    reproduce.main(Arguments("hat", picture=tmp_path / "if.svg", **SHORT | asked))  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "what if: 2 devices in a closed loop, uplinks of 6.92 to 9.08 Mbit/s, prompts of 500 tokens" in said
    assert "655.6" not in said
    assert said.endswith("next: synera reproduce hat\n")
    ttft = float(re.search(r"U-shape\s+│\s+([\d.]+)", said)[1])  # type: ignore[index]
    assert ttft > 500 * 8192 / (9.08e6 / 8) * 1e3, "the upload alone takes so long"
    assert (tmp_path / "if.svg").is_file()


def test_a_fit_is_said_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def fitted(methods: list, start: object, each: object) -> object:
        asked.append(([method.key for method in methods], start))
        return FITTED if len(asked) == 1 else FITTED_TO_SOME

    monkeypatch.setattr(reproduce, "fit", fitted)
    reproduce.main(Arguments("hat", rows=("both",), fit=True, json=tmp_path / "fit.json", **SHORT))  # type: ignore[arg-type]
    assert json.loads((tmp_path / "fit.json").read_text())["fitted"]["hit_rate"] == FITTED_TO_SOME.hit_rate, (
        "the last is to all"
    )
    assert [(len(keys), start) for keys, start in asked] == [(2, GUESSED), (5, FITTED)]
    assert f"fitted to {', '.join(reproduce.SOME_ROWS)}: Fitted(" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": ()},
        {"rows": ("both", "both")},
        {"devices": 0},
        {"devices": 2, "rate": 1.0},
        {"uplink_mbps": 0.0},
        {"prompt_tokens": 4000},
        {"seeds": 0},
        {"answers": 0},
        {"seed": -1},
        {"picture": Path("x.docx")},
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Arguments("hat", **wrong)  # type: ignore[arg-type]
