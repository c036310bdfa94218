from __future__ import annotations

import math

import pytest
from tensorboard import plugin_util

from agents.scalars import GROUPS, Means, configuration_table


def test_knobs_are_means_by_decision_and_the_rest_by_answer() -> None:
    means = Means()
    for draft_length, paid in ((2, -0.25), (4, -0.5), (6, -0.25)):
        means.decided({"draft_length": draft_length})
        means.paid({"latency": paid, "quality": 0.0})
    means.paid({"latency": 0.0, "quality": 0.5})
    means.ended({"seconds": 3.0, "tokens": 10})
    means.ended({"seconds": 1.0, "tokens": 20})
    found = means.take()
    assert found == {
        "knobs/draft_length": 4.0,
        "episode/seconds": 2.0,
        "episode/tokens": 15.0,
        "episode/uncovered_rate": 0.0,
        "reward_terms/latency": -0.5,
        "reward_terms/quality": 0.25,
    }
    assert {tag.split("/")[0] for tag in found} == set(GROUPS)
    assert means.take() == {}


def test_what_was_paid_waits_for_an_answer_to_end() -> None:
    means = Means()
    means.decided({"draft_length": 1})
    means.paid({"latency": -1.0})
    assert means.take() == {"knobs/draft_length": 1.0}
    means.decided({"draft_length": 3})
    means.paid({"latency": -2.0})
    means.ended({"seconds": 3.0})
    assert means.take() == {
        "knobs/draft_length": 3.0,
        "episode/seconds": 3.0,
        "reward_terms/latency": -3.0,
        "episode/uncovered_rate": 0.0,
    }


def test_an_answer_that_left_the_graphs_counts_in_its_rate_alone() -> None:
    means = Means()
    means.ended(None)
    means.paid({"latency": -2.0})
    means.ended({"seconds": 3.0})
    assert means.take() == {"episode/seconds": 3.0, "reward_terms/latency": -2.0, "episode/uncovered_rate": 0.5}
    means.ended(None)
    assert means.take() == {"episode/uncovered_rate": 1.0}


def test_what_nobody_can_tell_is_left_out_of_the_mean_or_has_no_tag() -> None:
    means = Means()
    means.ended({"quality": math.nan, "acceptance_rate": math.nan})
    means.ended({"quality": 0.5, "acceptance_rate": math.nan})
    assert means.take() == {"episode/quality": 0.5, "episode/uncovered_rate": 0.0}


@pytest.mark.parametrize("text", ["a|b", "*x* _y_ `z`", "<script>x</script>", "[l](http://x)", "\\|", "&lt;", "# h"])
def test_a_configuration_is_shown_as_it_is(text: str) -> None:
    html = plugin_util.markdown_to_safe_html(configuration_table({"run": text, "below": {text: 3}}))
    for shown in (f"<td>{text}</td>", f"<td>below.{text}</td>"):
        assert shown.replace("&", "&amp;").replace("<", "&lt;").replace("&lt;td>", "<td>").replace("&lt;/td>", "</td>") in (
            html.replace("&gt;", ">")
        ), html


def test_a_configuration_is_flat_and_a_value_stays_in_its_row() -> None:
    table = configuration_table({"a": {"b": {"c": 1}, "d": []}, "e": None, "two\nlines": "x" * 900, "f": {}})
    lines = table.splitlines()
    assert lines[:6] == ["| setting | value |", "|---|---|", "| a.b.c | 1 |", "| a.d | \\[\\] |", "| e | null |", lines[5]]
    assert lines[5].startswith("| two?lines | xxx")
    assert len(lines[5]) < 600
    assert len(lines) == 7
