from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest

from traces.tasks import wording

GROUPS = {
    f"{name}/{i}": forms for name in ("SENTENCES", "STEPS") for i, forms in enumerate(getattr(wording, name).values())
} | {name: getattr(wording, name) for name in ("FACT_ANSWERS", "RESULTS", "LINES", "TOTALS")}


def ways(form: str) -> list[str]:
    """Every way to say a form, its fields still open: by hand, not by what reads or draws them."""
    pieces = [piece.split("|") for piece in re.split(r"[\[\]]", form)]  # every second one was in brackets
    return ["".join(chosen) for chosen in product(*pieces)]


def test_the_ways_of_a_form_are_counted_by_hand() -> None:
    assert ways("[It|That] is {v}.") == ["It is {v}.", "That is {v}."]
    assert len(ways(wording.SENTENCES["river"][2])) == 8
    assert ways("{v} is here.") == ["{v} is here."]


def test_there_are_many_ways_to_say_everything() -> None:
    assert all(len(forms) >= 5 for forms in (wording.FACT_ANSWERS, *wording.SENTENCES.values()))
    assert all(len(forms) >= 4 for forms in (*wording.STEPS.values(), wording.RESULTS, wording.LINES, wording.TOTALS))
    assert set(wording.FORM_GROUPS) == set(GROUPS.values())


@pytest.mark.parametrize("forms", GROUPS.values(), ids=GROUPS)
def test_the_forms_of_a_group_differ_in_every_way_of_them(forms: tuple[str, ...]) -> None:
    said = [way for form in forms for way in ways(form)]
    assert len(said) == len(set(said))


@pytest.mark.parametrize("forms", GROUPS.values(), ids=GROUPS)
def test_the_first_form_and_its_first_words_are_canonical(forms: tuple[str, ...]) -> None:
    assert wording.word(forms) == ways(forms[0])[0]


@pytest.mark.parametrize("forms", GROUPS.values(), ids=GROUPS)
def test_every_way_of_every_form_is_drawn_and_forms_evenly(forms: tuple[str, ...]) -> None:
    rng, draws = np.random.default_rng(0), 400 * len(forms)
    drawn = [wording.word(forms, rng) for _ in range(draws)]
    assert set(drawn) == {way for form in forms for way in ways(form)}
    for form in forms:
        share = sum(said in set(ways(form)) for said in drawn) / draws
        assert abs(share - 1 / len(forms)) < 4 * (1 / len(forms) / draws) ** 0.5


@pytest.mark.parametrize("forms", GROUPS.values(), ids=GROUPS)
def test_a_pattern_matches_every_way_of_its_form_and_gives_the_fields_back(forms: tuple[str, ...]) -> None:
    for form in forms:
        for way in ways(form):
            fields = {name: f"{name}{name}" for name in re.findall(r"\{(\w)\}", way)}
            match = wording.pattern(form).fullmatch(way.format(**fields))
            assert match is not None
            assert match.groupdict() == fields


def test_a_pattern_matches_no_other_words_and_values_alone_may_be_several() -> None:
    pattern = wording.pattern("[It|That] is {v} of {t}.")
    assert pattern.fullmatch("That is two words of Belamora.")
    assert not pattern.fullmatch("This is it of Belamora.")
    assert not pattern.fullmatch("It is it of Belamora Wick.")
    assert not pattern.fullmatch("It is it of BelamoraX")
    assert not pattern.fullmatch("It is one. It is two of Belamora.")
