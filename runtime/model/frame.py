"""How the text of a prompt becomes the tokens that models read: what stands around it, and what ends its answer.

What does not live here: tokenizers (tokenizer.py) and how the frame of a chat is found (runtime/model/chat.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from runtime.errors import ContextOverflowError, SettingError
from runtime.settings import shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LARGEST_TOKEN = 2**31


@dataclass(frozen=True)
class Frame:
    """What a pair's prompts are put between, the same when graphs are recorded and when a device answers.

    Plain text, so that a device needs no chat template, and a template that writes today's date gives the same tokens
    on any day. The default leaves prompts as they are.

    Raises:
        SettingError: a field is of another type.
    """

    before: str = ""
    """Text before each prompt, such as the beginning of a chat with its system message."""
    after: str = ""
    """Text after each prompt, up to where the answer begins."""
    special_tokens: bool = True
    """The tokenizer puts its own special tokens around the text, such as a beginning of text; a chat states its own."""
    ends: tuple[int, ...] = ()
    """Tokens that end an answer, besides those that the models state: the end of a turn of the chat."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic, where bundles hold one

    def __post_init__(self) -> None:
        texts = isinstance(self.before, str) and isinstance(self.after, str)
        tokens = isinstance(self.ends, tuple) and all(type(t) is int and 0 <= t < _LARGEST_TOKEN for t in self.ends)
        if not (texts and tokens and isinstance(self.special_tokens, bool)):
            raise SettingError(f"{shown(self, 200)} must hold two texts, a truth value and token ids")

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> Frame:
        """Return the frame that :attr:`stated` described, as a graph file holds it; nothing stated is the default.

        Raises:
            SettingError: it is not what a frame states.
        """
        if unknown := set(stated) - {field.name for field in fields(cls)}:
            raise SettingError(f"a frame of prompts has no {shown(min(unknown))}; record the graphs again")
        values = dict(stated)
        if isinstance(ends := values.get("ends"), list):
            values["ends"] = tuple(ends)
        return cls(**values)

    @property
    def stated(self) -> dict[str, Any]:
        """What a graph file holds of it; nothing where it is the default."""
        return {} if self == Frame() else asdict(self) | {"ends": list(self.ends)}

    @property
    def is_chat(self) -> bool:
        """Whether anything stands around a prompt."""
        return bool(self.before or self.after)

    def text(self, prompt: str) -> str:
        """Return what is read for a prompt; within a chat, white space around the prompt counts for nothing."""
        return f"{self.before}{prompt.strip()}{self.after}" if self.is_chat else prompt

    def encode(self, tokenizer: Tokenizer, prompt: str) -> list[int]:
        """Return the token ids that the models read for a prompt.

        Raises:
            SettingError: the prompt is no text, or the tokenizer has no token for a part of it.
        """
        from runtime.model.tokenizer import encode  # an environment has a frame, and needs no tokenizer

        return encode(tokenizer, self.text(prompt), special_tokens=self.special_tokens)

    def encode_within(self, tokenizer: Tokenizer, prompt: str, context: int) -> tuple[int, ...]:
        """Return what :meth:`encode` does, of a prompt that leaves room for an answer.

        Raises:
            ContextOverflowError: it has no tokens, or as many as the context or more.
            SettingError: as of `encode`.
        """
        ids = tuple(self.encode(tokenizer, prompt))
        if not 0 < len(ids) < context:
            raise ContextOverflowError(
                f"the prompt {prompt[:60]!r} has {len(ids)} tokens; it must have between 1 and {context - 1} (the models' context is {context})"
            )
        return ids

    def __str__(self) -> str:
        if self.is_chat:
            return f"between {shown(self.before, 120)} and {shown(self.after, 120)}"
        return "as written" if self.special_tokens else "as written, without special tokens of the tokenizer's own"
