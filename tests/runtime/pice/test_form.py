"""The form of sketches: what is asked, how lines are read back, files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import SettingError
from runtime.pice.form import LENGTHS, Form
from runtime.pice.lines import Line
from traces import bundled
from traces.tasks import tours

TOURS = Form.load(bundled.TOURS_FORM)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1).map(np.random.default_rng), st.sampled_from(LENGTHS))
def test_the_bundled_form_asks_for_outlines_and_passages_as_tours_have_them(rng: np.random.Generator, length: int) -> None:
    prompt = tours.draw_tour(rng)
    facts = tours.facts_of(prompt, length)
    assert TOURS.ask(prompt, length) == tours.outline_prompt(prompt, length)
    lines = TOURS.reader().read(tours.outline(facts), over=True)
    assert lines == [Line(f"{fact.attribute} {fact.value}".strip(), fact.town) for fact in facts]
    first, stop = sorted(rng.integers(0, len(facts) + 1, 2))
    if first < stop:
        assert TOURS.ask_for(prompt, lines[first:stop]) == tours.passage_prompt(facts[first:stop])


def test_instruction_models_are_asked_for_lines_and_what_they_write_is_read() -> None:
    form = Form.instruct()
    asked = [form.ask("Why is the sky blue?", length) for length in LENGTHS]
    assert len(set(asked)) == 3
    assert all(text.endswith("Request: Why is the sky blue?") for text in asked)
    written = "- Sunlight has all colours.\n\n2. Air scatters 1.5 times more blue.\n* Eyes see it\n"
    lines = form.reader().read(written, over=True)
    assert [line.text for line in lines] == ["Sunlight has all colours.", "Air scatters 1.5 times more blue.", "Eyes see it"]
    text = form.ask_for("Why is the sky blue?", lines[:2])
    assert text.index("Why is the sky blue?") < text.index("- Sunlight") < text.index("- Air")
    assert "Eyes" not in text


def test_all_parts_of_an_answer_begin_alike() -> None:
    form = Form.instruct()
    one, other = (form.ask_for("Tell me of Rome.", [Line(text)]) for text in ("its founding", "its end"))
    alike = next(place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    assert one[alike:].startswith("founding")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sketch: [1]\nexpand: x", "sketch=.* must be a text"),
        ("sketch: '{{ prompt'\nexpand: x", "sketch of a sketch's form is no Jinja template"),
        ("sketch: '{{ wrong }}'\nexpand: x", "sketch of a sketch's form fails: .*wrong"),
        ("sketch: x\nexpand: '{{ lines[7].text }}'", "expand of a sketch's form fails"),
        ("sketch: x\nexpand: x\nline_end: '('", "line_end=.* no regular expression"),
        ("sketch: x\nexpand: x\nline_end: 'a*'", "must match something, not nothing"),
        ("sketch: x\nexpand: x\nheading: 'a'", "must have one group"),
        ("sketch: x\nexpand: x\nmore: 'a'", "is no form of sketches"),
        ("sketch: x", "is no form of sketches"),
        ("[", "cannot be read as the form of sketches"),
        ('sketch: "{{ prompt.__class__.__mro__ }}"\nexpand: x', "sketch of a sketch's form fails"),
    ],
)
def test_a_file_that_is_no_form_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "sketch.yaml"
    path.write_text(text)
    with pytest.raises(SettingError, match=said) as refused:
        Form.load(path)
    assert str(path) in str(refused.value)


def test_there_is_no_other_length() -> None:
    with pytest.raises(SettingError, match="length=4"):
        TOURS.ask("Describe Belmora: river; Marwick: mayor.", 4)
