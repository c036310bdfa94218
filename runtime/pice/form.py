"""The form of sketches: how a model is asked for one, what its lines look like, and how a model is asked to expand some of them.

A form is a YAML file of texts, so that users write their own; `Form.instruct()` is for instruction models. What does not live here:
the cutting of lines (lines.py), chat templates, which stand around what is written here (runtime/model/frame.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import yaml
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.errors import SettingError
from runtime.model.chat import chat_frame, states_chat_template
from runtime.model.frame import Frame
from runtime.pice.lines import Line, Lines
from runtime.settings import shown, whole

LENGTHS = (1, 2, 3)
"""Of a sketch: short, middle, long."""
INSTRUCT = "instruct"
"""Name of the form for instruction models."""
_LONGEST_PROMPT = 1_000_000


@dataclass(frozen=True)
class Form:
    """How sketches are asked for, read and expanded. `sketch` and `expand` are Jinja templates.

    Raises:
        SettingError: a field is of another type, a template cannot be read, or an expression is none.
    """

    sketch: str
    """Asks for a sketch, of `prompt`, a text, and `length`, 1 to 3."""
    expand: str
    """Asks to write some lines out, of `prompt` and `lines`, each with its `text` and `heading`. What comes before the first mention of
    `lines` is the same for all parts of an answer, so workers read it once."""
    line_end: str = r"\n"
    """Regular expression: what a line ends with."""
    heading: str = ""
    """Regular expression of one group: what a line may begin with, that the lines behind it stand under, too; empty: nothing."""
    mark: str = ""
    """Regular expression: what a line may begin with that says nothing, such as a dash; empty: nothing."""
    joint: str = " "
    """What stands between the parts of an answer."""
    chat: bool = False
    """What is asked is put into the chat template of the model that is asked, where it has one."""

    def __post_init__(self) -> None:
        for field in fields(self):
            wanted = (bool, "true or false") if field.name == "chat" else (str, "a text")
            if not isinstance(value := getattr(self, field.name), wanted[0]):
                raise SettingError(f"{field.name}={shown(value)} of a sketch's form must be {wanted[1]}")
        for name in ("line_end", "heading", "mark"):
            self._expression(name)
        if not self.line_end or self._expression("line_end").match(""):
            raise SettingError(f"line_end={shown(self.line_end)} of a sketch's form must match something, not nothing")
        if self.heading and self._expression("heading").groups != 1:
            raise SettingError(f"heading={shown(self.heading)} of a sketch's form must have one group")
        self.ask("a request", LENGTHS[0])
        self.ask_for("a request", [Line("a point", "a heading")])

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a form.

        Raises:
            SettingError: the file is missing, no YAML, or states another thing than a form.
        """
        try:
            stated = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise SettingError(f"{path} cannot be read as the form of sketches: {shown(str(error), 200)[1:-1]}") from None
        names = [field.name for field in fields(cls)]
        if not isinstance(stated, Mapping) or not {"sketch", "expand"} <= set(stated) <= set(names):
            raise SettingError(
                f"{path} is no form of sketches: it must state sketch and expand, and may state {', '.join(names[2:])}"
            )
        try:
            return cls(**stated)
        except SettingError as error:
            raise SettingError(f"{path}: {error}") from None

    @classmethod
    def instruct(cls) -> Self:
        """Return the form for instruction models."""
        return cls.load(Path(__file__).with_name("instruct.yaml"))

    @classmethod
    def named(cls, name: str) -> Self:
        """Return the form for instruction models by the name `instruct`, else that of a file.

        Raises:
            SettingError: as of `load`.
        """
        return cls.instruct() if name == INSTRUCT else cls.load(Path(name))

    def ask(self, prompt: str, length: int) -> str:
        """Return the text that asks for a sketch.

        Raises:
            SettingError: there is no such length, the prompt is too long, or the template fails.
        """
        whole("length", length, LENGTHS[0], LENGTHS[-1])
        return self._rendered("sketch", prompt=prompt, length=length)

    def ask_for(self, prompt: str, lines: Sequence[Line]) -> str:
        """Return the text that asks to expand lines.

        Raises:
            SettingError: the prompt is too long, or the template fails.
        """
        return self._rendered("expand", prompt=prompt, lines=list(lines))

    def frame(self, model: Path) -> Frame:
        """Return what stands around what a model is asked.

        Raises:
            SettingError, CheckpointError: its chat template cannot be used.
        """
        if not self.chat or not states_chat_template(model):
            return Frame()
        return chat_frame(model, ())

    def reader(self) -> Lines:
        """Return what cuts a sketch into lines."""
        return Lines(
            self._expression("line_end"),
            self._expression("heading") if self.heading else None,
            self._expression("mark") if self.mark else None,
        )

    def _expression(self, name: str) -> re.Pattern[str]:
        try:
            return re.compile(getattr(self, name))
        except re.error as error:
            raise SettingError(
                f"{name}={shown(getattr(self, name))} of a sketch's form is no regular expression: {error}"
            ) from None

    def _rendered(self, name: str, *, prompt: str, **values: Any) -> str:
        if len(prompt) > _LONGEST_PROMPT:
            raise SettingError(f"a prompt of {len(prompt)} characters is longer than {_LONGEST_PROMPT}")
        try:
            return str(self._templates[name].render(prompt=prompt, **values))
        except Exception as error:  # a template may do anything that is not unsafe
            raise SettingError(f"{name} of a sketch's form fails: {shown(str(error), 200)[1:-1]}") from None

    @cached_property
    def _templates(self) -> dict[str, Any]:
        jinja = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        found = {}
        for name in ("sketch", "expand"):
            try:
                found[name] = jinja.from_string(getattr(self, name))
            except TemplateError as error:
                raise SettingError(f"{name} of a sketch's form is no Jinja template: {shown(str(error), 200)[1:-1]}") from None
        return found
