"""Text from outside (prompts, answers, paths, names) as a terminal may be given it."""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"
"""Characters without a shape of their own that words of some languages, and some emoji, are written with."""


def harmless(text: str) -> str:
    """Return text that may be printed as it is: what acts on a terminal, or is no character, is shown as its escape.

    Line ends and tabs stay. What belongs in one line of a message is cut and quoted by :func:`runtime.settings.shown`.
    """
    return "".join(c if _harmless(c) else c.encode("unicode_escape").decode() for c in text)


def _harmless(character: str) -> bool:
    kind = unicodedata.category(character)
    return character in "\n\t" or character in _JOINERS or not (kind.startswith("C") or kind in ("Zl", "Zp"))
