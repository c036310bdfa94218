"""How a recording reads its prompts: as they are, in a chat, or as those were read that a lens is taken from.

What does not live here: what a frame is (runtime/model/frame.py) and chat templates (runtime/model/chat.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agents.bundle import META, Bundle
from runtime.errors import SettingError
from runtime.model import chat as templates
from runtime.model.frame import Frame
from traces.errors import TraceError
from traces.synera.graph import GraphSet


def asked_frame(
    slm: Path, llm: Path, texts: Sequence[str], *, chat: bool, system: str, thinking: bool, bos: bool, lens: Path | None
) -> Frame:
    """Return the frame that a user asked for.

    Args:
        slm: model folder.
        llm: model folder, whose chat template is taken where it has one.
        texts: the prompts.
        chat: put them into a chat.
        system: its system message.
        thinking: see :func:`runtime.model.chat.chat_frame`.
        bos: have the tokenizer put its own special tokens around a prompt that is in no chat.
        lens: a graph file, or the tables of a bundle, that the new graphs are to go with.

    Raises:
        SettingError: there is no usable chat template, or prompts were read in another way where the lens is from.
    """
    frame = Frame(special_tokens=bos)
    if chat:
        folder = llm if templates.has_chat_template(llm) else slm
        frame = templates.chat_frame(folder, texts, system, thinking=thinking)
    known = None if lens is None else _known(lens)
    if known is None:
        return frame
    # Of two chats the words may differ, as a template may write the date; those of before are kept.
    alike = known == frame or (known.is_chat and frame.is_chat and system.strip() in known.before)
    if not alike:
        raise SettingError(f"in {lens} prompts were read {known}, here they would be read {frame}; record them alike")
    return known


def _known(lens: Path) -> Frame | None:
    """How prompts were read where a lens is from; None for tables of which nothing else is known."""
    if (lens.parent / META).is_file():
        return Bundle.load(lens.parent).meta.frame
    try:
        return Frame.of(GraphSet.load(lens).meta.frame)
    except TraceError:
        return None
