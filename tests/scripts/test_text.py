"""Text from outside, as a terminal is given it."""

from __future__ import annotations

import pytest

from scripts._text import harmless


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain [bold]x[/] :smile: [/INST] \\", "plain [bold]x[/] :smile: [/INST] \\"),
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[2J\x07\r\x00\x9b", r"\x1b[2J\x07\r\x00\x9b"),
        ("a\u202eb\u2028c\ufeff", r"a\u202eb\u2028c\ufeff"),
        ("\udcff", r"\udcff"),
        ("für 東京 \u00a0\u3000 क्\u200cष 👩\u200d🔬", "für 東京 \u00a0\u3000 क्\u200cष 👩\u200d🔬"),
    ],
)
def test_text_is_shown_without_what_acts_on_a_terminal(text: str, wanted: str) -> None:
    assert harmless(text) == wanted
    harmless(text).encode()
