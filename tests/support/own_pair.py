"""Pairs as users bring them: random weights of each family, a byte-level BPE tokenizer, a chat template, prompts as JSON lines.

Each family is awkward in a way that real ones are: see `FAMILIES`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.support.checkpoints import save_checkpoint

_TEXT = [
    "The quick brown fox jumps over the lazy dog. You are a helpful assistant. What is 12 times 7? The answer is 84.",
    "def add(a, b):\n    return a + b\n\nnaïve café, 你好世界, привет мир, 123 456",
    "Which of these is right?\n(A) one\n(B) two\n(C) three\nuser assistant system",
]
_LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}
{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
_MISTRAL = """{{ bos_token }}{% for message in messages %}
{%- if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}
{%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""
_QWEN2 = """{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
_QWEN3 = """{%- for message in messages %}
{%- if message['role'] == 'assistant' %}{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + message['content'] + '<|im_end|>\\n' }}
{%- else %}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"""


@dataclass(frozen=True)
class Family:
    """What a family's folders hold besides weights."""

    template: str
    special: tuple[str, ...]
    """Special tokens, in the order of their ids; `bos` and `eos` are among them."""
    bos: str | None
    eos: str
    """What config.json states as the end."""
    turn_end: str
    """What the template writes behind an answer."""
    as_file: bool = True
    """The template is a file of its own, as transformers 5 writes it; else it is in tokenizer_config.json."""
    stated_ends: tuple[str, ...] = ()
    """What generation_config.json states besides."""
    padded: tuple[int, int] = (0, 0)
    """Rows of the SLM and of the LLM that no token belongs to."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of config.json."""


FAMILIES = {
    # The template writes today's date and strips prompts; only generation_config.json states the end of a turn.
    "Llama": Family(
        _LLAMA,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        turn_end="<|eot_id|>",
        stated_ends=("<|end_of_text|>", "<|eot_id|>"),
    ),
    # A template within tokenizer_config.json that takes no system message; a sliding window; the head is not tied.
    "Mistral": Family(
        _MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>", "</s>", as_file=False, settings={"sliding_window": 24}
    ),
    # No file states the end of a turn; a tied head; both models have rows beyond the tokenizer, not equally many.
    "Qwen2": Family(
        _QWEN2,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        bos=None,
        eos="<|endoftext|>",
        turn_end="<|im_end|>",
        padded=(40, 24),
        settings={"tie_word_embeddings": True},
    ),
    # Reasons before it answers unless it is told not to.
    "Qwen3": Family(
        _QWEN3, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), None, "<|im_end|>", "<|im_end|>", settings={"head_dim": 16}
    ),
}


def byte_level(special: tuple[str, ...], bos: str | None) -> Tokenizer:
    """A byte-level BPE tokenizer of some 400 tokens; with a beginning of text if there is a token for it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    byte = processors.ByteLevel(trim_offsets=False)
    begin = [processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, special.index(bos))])] if bos else []
    tokenizer.post_processor = processors.Sequence([byte, *begin])
    return tokenizer


@dataclass(frozen=True)
class OwnPair:
    """Two folders and their family."""

    family: Family
    slm: Path
    llm: Path


def save_pair(folder: Path, kind: str, *, context: int = 384) -> OwnPair:
    """Write the two folders of a family; the LLM is the SLM with one more layer that does little, so that they often agree."""
    family = FAMILIES[kind]
    tokenizer = byte_level(family.special, family.bos)
    size = tokenizer.get_vocab_size()
    tokens = {name: family.special.index(name) for name in family.special}
    for name, layers, padding in (("slm", 2, family.padded[0]), ("llm", 3, family.padded[1])):
        settings = {"max_position_embeddings": context, "vocab_size": size + padding, "num_hidden_layers": layers}
        named = {"bos_token_id": tokens.get(family.bos or ""), "eos_token_id": tokens[family.eos]}
        save_checkpoint(folder / name, kind, **settings | named | family.settings)
        _save_tokenizer(folder / name, tokenizer, family)
        ends = {"eos_token_id": [tokens[end] for end in family.stated_ends]} if family.stated_ends else {}
        (folder / name / "generation_config.json").write_text(json.dumps(ends))
    _make_akin(folder / "slm" / "model.safetensors", folder / "llm" / "model.safetensors", tokens[family.turn_end])
    return OwnPair(family, folder / "slm", folder / "llm")


def _make_akin(slm: Path, llm: Path, end: int) -> None:
    """Give the LLM the SLM's weights, and make little of what its last layer adds; an end of a turn is not rare."""
    own, weights = load_file(slm), load_file(llm)
    own.get("lm_head.weight", own["model.embed_tokens.weight"])[end] *= 1.6
    save_file(own, slm, metadata={"format": "pt"})
    for name, weight in weights.items():
        if name in own:
            rows = min(len(weight), len(own[name]))
            weight[:rows] = own[name][:rows]
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            weight *= 0.4
    save_file(weights, llm, metadata={"format": "pt"})


def _save_tokenizer(folder: Path, tokenizer: Tokenizer, family: Family) -> None:
    hub = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=family.bos, eos_token=family.eos)
    hub.chat_template = family.template
    hub.save_pretrained(folder)
    if not family.as_file:
        (folder / "chat_template.jinja").unlink()
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": family.template}))


def write_prompts(path: Path, count: int = 36) -> Path:
    """Write JSON lines: short and long, of one line and of many, in several scripts, each with a reference."""
    forms = (
        "What is {n} times 7?",
        "Which of these is right?\n(A) {n}\n(B) two\n(C) three",
        "def add_{n}(a, b):\n    return ",
        "Скажи {n} 你好 naïve 👍🏽",
        "  The quick brown fox {n} jumps\n\n",
        "user\n{n}\nassistant",
    )
    rows = [
        {"prompt": forms[n % len(forms)].format(n=n), "reference": f"It is {7 * n}.", "kind": f"form {n % len(forms)}"}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
