"""The frame that a chat template puts prompts into, read from a model folder by transformers.

What does not live here: what a frame is and how a device reads prompts with it (runtime/model/frame.py), which needs no template.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer

from runtime.errors import CheckpointError, SettingError
from runtime.model.folder import model_file
from runtime.model.frame import Frame
from runtime.model.tokenizer import TOKENIZER, load_tokenizer
from runtime.settings import shown

_PROMPT, _ANSWER = "a prompt 1f6b0c", "an answer 9d27e4"
"""What stands for a prompt and an answer where a template is tried; no template writes them by itself."""


class _Render(Protocol):
    def __call__(self, conversation: list[dict[str, str]], *, add_generation_prompt: bool) -> str: ...


def has_chat_template(folder: Path) -> bool:
    """Whether a model folder has a chat template."""
    return bool(_hub_tokenizer(folder).chat_template)


def states_chat_template(folder: Path) -> bool:
    """Whether a model folder seems to have a chat template, by its files alone: transformers, which takes seconds to load, is not asked."""
    try:
        stated = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stated = {}
    return (folder / "chat_template.jinja").is_file() or (isinstance(stated, dict) and bool(stated.get("chat_template")))


def chat_frame(folder: Path, prompts: Iterable[str], system: str = "", *, thinking: bool = False) -> Frame:
    """Return the frame that the chat template of a model folder puts a user's message into, up to where the answer begins.

    The template is asked once, so one that writes today's date writes this one for good. The token that ends a turn is
    among the frame's `ends`, whether or not the model states it.

    Args:
        folder: with a tokenizer that has a template.
        prompts: all that are going to be put into it; the frame must give for each what the template gives.
        system: the system message; empty is the template's own, or none.
        thinking: have a model that can reason before it answers do so (`enable_thinking`).

    Raises:
        SettingError: there is no template, it fails, takes no such system message, or writes a prompt in another way.
        CheckpointError: the folder has no usable tokenizer.
    """
    hub = _hub_tokenizer(folder)
    if not hub.chat_template:
        raise SettingError(
            f"the tokenizer of {folder} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); "
            "leave --chat out, or take models that were trained to chat"
        )
    render = partial(_render, hub, folder, thinking)
    begun = [{"role": "system", "content": system}] if system else []

    def written(prompt: str) -> str:
        return render([*begun, {"role": "user", "content": prompt}], add_generation_prompt=True)

    before, found, after = written(_PROMPT).partition(_PROMPT)
    if not found or _PROMPT in after or (system and system.strip() not in before):
        raise SettingError(f"the chat template of {folder} leaves out the prompt or the system message, or repeats it")
    ends = _ends(render, [*begun, {"role": "user", "content": _PROMPT}], load_tokenizer(folder))
    frame = Frame(before, after, special_tokens=False, ends=ends)
    if other := next((prompt for prompt in prompts if written(prompt.strip()) != frame.text(prompt)), None):
        raise SettingError(
            f"the chat template of {folder} writes the prompt {shown(other, 60)} otherwise than others; leave it out, or put "
            "prompts into the template yourself, and leave --chat out"
        )
    return frame


def _hub_tokenizer(folder: Path) -> Any:
    """The tokenizer as transformers loads it; only its template and special tokens are used."""
    from transformers import PreTrainedTokenizerFast

    model_file(folder, TOKENIZER)
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the library raises whatever it meets
        raise CheckpointError(f"the tokenizer of {folder} cannot be read by transformers: {shown(str(error), 200)}") from None


def _render(hub: Any, folder: Path, thinking: bool, conversation: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    try:
        return str(
            hub.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=add_generation_prompt, enable_thinking=thinking
            )
        )
    except Exception as error:  # a template is a program, and raises whatever it likes
        system = "; it may take no --system-message" if conversation[0]["role"] == "system" else ""
        raise SettingError(f"the chat template of {folder} fails: {shown(str(error), 200)}{system}") from None


def _ends(render: _Render, begun: list[dict[str, str]], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The special token that the template writes right behind an answer; none where it writes something else."""
    written = render([*begun, {"role": "assistant", "content": _ANSWER}], add_generation_prompt=False)
    behind = written.partition(_ANSWER)[2]
    special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    first = tokenizer.encode(behind, add_special_tokens=False).ids[:1]
    return tuple(index for index in first if index in special)
