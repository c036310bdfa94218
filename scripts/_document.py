"""A report as plain data, and its forms: Markdown, and one self-contained page of HTML.

Everything in it is text: whoever fills it escapes nothing. What does not live here: what it says (_sections.py) and its pictures
(_charts.py).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import jinja2

from scripts._text import harmless
from synera_env.picture import COLOURS
from traces.files import write_bytes, write_text


@dataclass(frozen=True)
class Grid:
    """A table."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG, and what is on it."""

    name: str
    """Of its file, without the suffix; the program's own, never a user's."""
    caption: str
    png: bytes = field(repr=False)

    @property
    def data(self) -> str:
        """As a page holds it."""
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Told:
    """An answer, token by token."""

    title: str
    prompt: str
    tokens: Sequence[tuple[str, str, str]]
    """What each says, where it comes from (:data:`synera_env.picture.COLOURS`), and what was decided of its chunk."""
    picture: Picture


@dataclass(frozen=True)
class Section:
    """A heading with what belongs to it, in this order."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Grid] = ()
    pictures: Sequence[Picture] = ()
    answers: Sequence[Told] = ()


@dataclass(frozen=True)
class Document:
    """A report."""

    title: str
    summary: Sequence[str]
    sections: Sequence[Section]


def write_document(document: Document, folder: Path) -> None:
    """Write `report.html`, `report.md` and the pictures into a folder; what else is there stays."""
    for section in document.sections:
        for picture in (*section.pictures, *(told.picture for told in section.answers)):
            write_bytes(folder / f"{picture.name}.png", picture.png)
    write_text(folder / "report.md", to_markdown(document))
    write_text(folder / "report.html", to_html(document))


def to_html(document: Document) -> str:
    """Return a page that asks nothing of any network; all text in it is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["harmless"] = harmless
    template = files("scripts").joinpath("templates", "report.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(document=document, colours=COLOURS)


def to_markdown(document: Document) -> str:
    """Return it as Markdown, its pictures named as files beside it."""
    lines = [f"# {_plain(document.title)}", "", *(f"{_plain(text)}  " for text in document.summary)]
    for section in document.sections:
        lines += ["", f"## {_plain(section.title)}", "", *(f"{_plain(text)}  " for text in section.text)]
        for table in section.tables:
            lines += ["", f"**{_plain(table.title)}**", "", _row(table.header), "|---" * len(table.header) + "|"]
            lines += [_row(row) for row in table.rows]
            lines += ["", _plain(table.note)] if table.note else []
        for picture in section.pictures:
            lines += ["", f"![{_plain(picture.caption)}]({picture.name}.png)"]
        for told in section.answers:
            said = "".join(text for text, *_ in told.tokens)
            lines += ["", f"**{_plain(told.title)}**", "", f"{_plain(told.prompt)}  ", f"answer: {_plain(said)}"]
            lines += ["", f"![{_plain(told.picture.caption)}]({told.picture.name}.png)"]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = " ".join(harmless(text).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~$!" else "&amp;" if c == "&" else c for c in line)
