"""The report's forms are well-formed and self-contained, whatever text is in it; its figures are those of the contest."""

from __future__ import annotations

import base64
import csv
import io
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agents.aggregates import Means
from agents.agreement import Agreement
from agents.contest import ONLY, Contest
from agents.evaluation import answer
from agents.gaps import Bounds
from agents.registry import controller
from agents.stage import Stage
from agents.worlds import BothWorlds
from scripts import _charts
from scripts._document import Document, Grid, Picture, Section, Told, to_html, to_markdown, write_document
from scripts._live_sections import Proof
from scripts._sections import CSV_HEADER, Matter, document_of, to_csv
from scripts._told import tell, tell_replayed
from synera_env.mixes import Mix, Worlds, scenarios_of
from synera_env.synera.replay import SyneraReplayEnv
from tests.agents.test_aggregates import answered, contest
from tests.support.recorded import GPU, LINKS, PHONE, Recorded, recorded

HOSTILE = "</td><script>alert(1)</script>\"'><img src=x onerror=y> | `a` [b](http://c) $d$ {{ 7 * 7 }} \x1b[2J \u202e &lt;"
VOID = {"meta", "img", "br", "link", "input"}
_PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.met: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.met.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile() -> Document:
    picture = Picture("picture", HOSTILE, _PNG)
    told = Told(HOSTILE, HOSTILE, [(HOSTILE, "kept", HOSTILE), ("ok", "corrected", "x")], Picture("told", HOSTILE, _PNG))
    table = Grid(HOSTILE, [HOSTILE, "b"], [[HOSTILE, "1"], ["2", HOSTILE]], HOSTILE)
    return Document(HOSTILE, [HOSTILE], [Section(HOSTILE, [HOSTILE], [table], [picture], [told])])


def test_nothing_that_is_told_becomes_part_of_the_page() -> None:
    text = to_html(hostile())
    page = Page(text)
    assert not [tag for tag, _ in page.met if tag == "script"]
    assert "49" not in page.text, "no text is a template"
    assert not {"\x1b", "\u202e"} & set(text)
    assert page.text.count("<script>alert(1)</script>") == 15
    for tag, attributes in page.met:
        assert not [name for name in attributes if name.startswith("on")]
        assert tag != "img" or (attributes["src"] or "").startswith("data:image/png;base64,")
    assert {attributes.get("class") for tag, attributes in page.met if tag == "span"} == {"kept", "corrected"}


def test_the_page_asks_nothing_of_any_network() -> None:
    page = Page(to_html(hostile()))
    for tag, attributes in page.met:
        assert tag not in ("link", "iframe", "object", "base", "form")
        assert not [v for n, v in attributes.items() if n in ("href", "src", "action") and not (v or "").startswith("data:")]
    (policy,) = (a["content"] for t, a in page.met if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_markdown_shows_text_as_it_is_with_as_many_cells_as_the_header() -> None:
    text = to_markdown(hostile())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    for row in rows:
        assert row.replace("\\|", "").count("|") == 3
    assert "<" not in text.replace("\\<", "")
    assert "](http" not in text.replace("\\]", "")
    assert not {"\x1b", "\u202e"} & set(text)


def test_a_report_is_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("stays")
    write_document(hostile(), tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {"report.html", "report.md", "picture.png", "told.png", "other.txt"}


# ---------------------------------------------------------------- what it says


def some(**more: list[list[float | None]]) -> Contest:
    kinds = ["sum", "fact"] * 5
    rules = {"never": {ONLY: [[0.0] * 10, [0.5] * 10]}, "always": {ONLY: [[0.4] * 10, [0.1] * 10]}}
    mine = {str(s): [[0.5 + 0.01 * s] * 10, [0.6] * 10] for s in range(3)}
    return contest({**rules, "mine": mine, **{name: {ONLY: rows} for name, rows in more.items()}}, kinds)


def test_the_csv_is_tidy_and_every_figure_is_there() -> None:
    found = some(lost=[[None] * 10, [0.2] * 10])
    rows = list(csv.DictReader(io.StringIO(to_csv(Means(found)))))
    assert tuple(rows[0]) == CSV_HEADER
    per_seed = (1 + 2) * (1 + 2) * 9  # scenarios, kinds, measures
    assert len(rows) == per_seed * (1 + 1 + 4 + 1)
    keys = [tuple(row[name] for name in CSV_HEADER[:8]) for row in rows]
    assert len(set(keys)) == len(keys)
    (row,) = (
        r
        for r in rows
        if (r["controller"], r["seed"], r["scenario"], r["kind"], r["measure"]) == ("mine", "all", "all", "all", "reward")
    )
    assert float(row["mean"]) == pytest.approx((0.51 + 0.6) / 2)
    assert float(row["low"]) < float(row["mean"]) < float(row["high"])
    assert (row["answers"], row["uncovered"]) == ("60", "0.0000")
    lost = [r for r in rows if r["controller"] == "lost" and r["kind"] == "all" and r["measure"] == "reward"]
    assert [(r["mean"], r["uncovered"]) for r in lost] == [("", "0.5000"), ("", "1.0000"), ("0.2", "0.0000")]


def test_a_report_says_who_won_who_lost_answers_and_how_worlds_rank() -> None:
    found = some(lost=[[None] * 10, [0.2] * 10], poor=[[0.9] + [None] * 9, [0.9] + [None] * 9])
    one = found.scenarios[0].name
    replay = {name: answered([x, x + 0.1]) for name, x in (("never", 0.1), ("always", 0.2), ("mine", 0.3))}
    alike = Agreement(
        tokens_identical=0.5, bytes_identical=0.5, same_knobs=1.0, same_tokens=1.0, replay_error={}, differences=()
    )
    both = Proof(BothWorlds(replay, replay, dict.fromkeys(replay, alike)), "never", 3, ("remote",))
    matter = Matter(found, "never", ("mine",), "T", ["S."], Bounds({"clairvoyant": {one: 1.0}}), live=both)
    document, _ = document_of(matter)
    assert document.summary[0] == "Highest mean reward: mine, 0.555 [0.550, 0.560]."
    sections = {section.title: section for section in document.sections}
    assert list(sections) == [
        *("Summary", "Aggregates over tasks", "By scenario", "In the papers' terms", "Gaps closed", "Replay against live")
    ]
    said = " ".join(text for section in document.sections for text in section.text)
    assert "lost keeps no answer in some scenario" in said
    assert "so with care: poor" in said
    assert "1.20 to 5.47 times the baselines' quality" in said
    assert "Spearman's rank correlation of mean rewards over 3 controllers, interval by prompt: 1.000" in said
    assert "live: 3 devices at a time on one verifier" in said
    assert "whose tokens the replay reproduces from the live knobs: 0.500" in said
    best, *_ = sections["Replay against live"].tables[0].rows
    assert best[:4] == ["mine", "0.350", "0.350 [0.300, 0.400]", "+0.200 [+0.200, +0.200]"]
    (gap,) = (row for row in sections["Gaps closed"].tables[0].rows if row[0] == "mine")
    assert gap[:2] == ["mine", "clairvoyant"]
    assert gap[2].startswith("0.510")
    (mine,) = (row for row in sections["Summary"].tables[0].rows if row[0] == "mine")
    assert (mine[1], mine[3]) == ("3", "+0.305 [+0.300, +0.310]")
    for section in document.sections:
        for picture in section.pictures:
            assert picture.png.startswith(b"\x89PNG")
            assert len(picture.png) > 5000
    Page(to_html(document))


def test_a_contest_without_anything_to_aggregate_says_so() -> None:
    found = contest({"a": {ONLY: [[1.0] * 6]}, "b": {ONLY: [[1.0] * 6]}})
    document, _ = document_of(Matter(found, "a", ("b",), "T", []))
    assert "so aggregates over tasks say nothing" in document.sections[1].text[0]


def test_names_that_mean_something_to_a_picture_are_only_names() -> None:
    means = Means(contest({"$x_{": {ONLY: [[0.0] * 6]}, HOSTILE: {ONLY: [[1.0] * 6]}}))
    assert _charts.differences(means, ["$x_{", HOSTILE], HOSTILE).png
    assert _charts.fronts(means, ["$x_{", HOSTILE]).png
    assert len(_charts.label(HOSTILE)) <= 34


# ---------------------------------------------------------------- answers


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


def test_an_answer_is_told_token_by_token_replayed_or_from_its_records(pair: Recorded) -> None:
    env = SyneraReplayEnv(pair.graphs, LINKS, PHONE, GPU)
    stage = Stage(Worlds(Mix((20.0,)), pair.graphs, LINKS, PHONE, GPU), 6)
    (scenario,) = scenarios_of(Mix((20.0,)), LINKS)
    planned, rule = stage.plan(scenario)[0], controller("threshold", env.schema)
    world = stage.env(scenario)
    wanted = answer(world, rule, planned)
    told = tell_replayed("x", "T", world, rule, planned)
    assert "".join(text for text, *_ in told.tokens) == pair.graphs.text(wanted.tokens)
    assert len(told.tokens) == len(wanted.tokens)
    origins = [origin for _, origin, _ in told.tokens]
    assert {"checked", "corrected"} & set(origins)
    assert origins.count("checked") == sum(r.accepted for r in wanted.records if r.offloaded)
    assert told.picture.png.startswith(b"\x89PNG")
    prompt = pair.graphs.meta.prompts[planned.prompt]
    again = tell("x", "T", prompt, wanted, planned.preference, pair.graphs.text, env.schema)
    assert again.tokens == told.tokens
    assert again.prompt == told.prompt == prompt
