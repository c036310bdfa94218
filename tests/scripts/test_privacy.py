"""`synera privacy`: tables, picture and figures agree, and what comes next is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runtime.errors import SettingError
from scripts import privacy
from scripts.privacy import Arguments, Inverted
from traces.schemas import read_json


def test_it_prints_draws_and_writes_the_same_figures(
    tiny_llm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, figures = tmp_path / "p.svg", tmp_path / "p.json"
    privacy.main(
        Arguments(tiny_llm, prompts=2, replayed=1, depths=(1,), precisions=("int8", "fp32"), picture=picture, json=figures)
    )
    said = capsys.readouterr().out
    assert picture.read_bytes().startswith(b"<?xml")
    found = read_json(figures, Inverted, "there is none")
    assert (found.layers, found.trial.depths, len(found.recovered.recoveries)) == (3, (1,), 8)
    assert f"picture: {picture}\nfigures: {figures}\nnext: synera make-certs" in said
    rows = re.findall(r"(embedding|lens|probe|replay) +│ +1 │ +([\d.]+) \[[^│]*│ +([\d.]+) \[[^│]*│\n", said)
    assert [attack for attack, *_ in rows] == ["embedding", "lens", "probe", "replay"]
    for attack, int8, fp32 in rows:
        for precision, shown in (("int8", int8), ("fp32", fp32)):
            of = found.recovered.of(attack, 1, precision)
            assert of is not None
            assert float(shown) == pytest.approx(of.shares["all"].mean, abs=5e-4)
    assert "the same by the place of a token, int8" in said


def test_a_depth_that_leaves_the_cloud_nothing_is_refused(tiny_llm: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"depths=3 must be an integer in 0\.\.2"):
        privacy.main(Arguments(tiny_llm, depths=(3,), json=tmp_path / "p.json"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"depths": (1, 1)}, "depths=1 1 names one twice"),
        ({"precisions": ("fp32", "fp32")}, "names one twice"),
        ({"precisions": ()}, "precisions names none"),
        ({"prompts": 3}, "replayed=4 must be an integer in 0..3"),
        ({"json": Path("x.png"), "picture": Path("x.png")}, "a file of its own"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        Arguments(**changes)  # type: ignore[arg-type]
