"""Tokenizers as device and cloud load them: a Hugging Face `tokenizer.json`, prompts to ids, and the hash that tells two apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from runtime.errors import CheckpointError, SettingError
from runtime.model.folder import model_file
from runtime.settings import shown

TOKENIZER = "tokenizer.json"
_SAMPLED = 16_384
"""Most entries of a vocabulary whose own text is read for the hash; of a larger one every n-th."""
_PROBES = (
    *("", " ", "   ", "\t", "\n", "\r\n", " \n \t\n", "a\tb\nc\r\nd", "  two  spaces  ", "end ", "\x00\x01\x7f"),
    *("hello", " hello", "Hello World", "HELLO WORLD", "hELLO wORLD", "it's don't we'll I'VE they'd", "a-b_c/d.e,f;g:h!?"),
    *("0", "12", "345", "6789", "0123456789" * 3, "1,234.56", "-1e-10", "3x4=12", "٣٤٥", "½ ² Ⅷ"),
    *(
        "café naïve",
        "cafe\u0301 nai\u0308ve",
        "ﬁ ﬂ ① \uff26\uff55\uff4c\uff4c \uff57\uff49\uff44\uff54\uff48",
        "İstanbul straße ΣΊΣΥΦΟΣ ǅ",
        "Å \u212b A\u030a",
        "a\u0300\u0301\u0302b",
    ),
    *(
        "日本語のテキスト",
        "你好\uff0c世界。",
        "안녕하세요",
        "مرحبا بالعالم",
        "שלום עולם",
        "नमस्ते दुनिया",
        "สวัสดีชาวโลก",
        "Привет, мир",
    ),
    *(
        "👍",
        "👍🏽 👩\u200d👩\u200d👧 🇩🇪 ☺\ufe0f",
        "\u00a0\u2003\u3000\u200b\u200d\ufeff\u2028",
        "\ufffd\U0010ffff",
        "\u2018single\u2019 “double” — … «»",
    ),
    *(
        "def f(x):\n    return x**2  # ok\n",
        "if (a&&b||!c) { d[0] += 1; }",
        "<a href='x'>y</a>",
        '{"k": [1, 2.5, null]}',
        "C:\\n\\t",
    ),
    *("https://example.org/a?b=c&d=%20#e", "user@example.org", "$\\frac{1}{2}$ x_i^2", "[CLS] <s> </s> <pad> <|endoftext|>"),
    *("pneumonoultramicroscopicsilicovolcanoconiosis", "a" * 100, "ab" * 60, "=" * 40, "\u4e00" * 40),
)
"""Texts that tokenizers are known to differ on."""


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Load the tokenizer of a model folder; :func:`encode` gives what the model reads. It neither pads nor cuts.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = model_file(folder, TOKENIZER, "save it beside the weights with save_pretrained()")
    try:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_batch_fast(_PROBES)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and panics, which are no Exception
        raise CheckpointError(f"{path} is not a usable tokenizer: {shown(str(error), 200)[1:-1]}") from None
    return tokenizer


def encode(tokenizer: Tokenizer, prompt: str, *, special_tokens: bool = True) -> list[int]:
    """Return the token ids of a prompt, as every part of the project reads it.

    The tokenizer's template puts special tokens around a prompt (such as a beginning of text), unless it is asked not to.
    Those that the prompt itself begins or ends with, as one that was put into a chat template by hand, are not put there
    again.

    Raises:
        SettingError: the prompt is no text, or the tokenizer has no token for a part of it.
    """
    try:
        read = tokenizer.encode(prompt, add_special_tokens=special_tokens)
    except Exception as error:  # the library raises TypeError for half a character, bare Exception for the rest
        raise SettingError(f"the tokenizer cannot read the prompt {shown(prompt)}: {error}") from None
    ids, added = list(read.ids), list(read.special_tokens_mask)
    if not special_tokens:
        return ids
    first = added.index(0) if 0 in added else len(ids)
    last = len(ids) - (added[::-1].index(0) if 0 in added else 0)
    before, own, after = ids[:first], ids[first:last], ids[last:]
    if own[: len(before)] == before:
        own = own[len(before) :]
    if after and own[-len(after) :] == after:
        after = []
    return [*before, *own, *after]


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Return one more than the largest token id, those of added tokens included."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def tokenizer_hash(folder: str | Path) -> str:
    """Return a short hash of what a tokenizer does, however its file is written.

    Two have the same hash where they have the same tokens under the same ids, special tokens, merges and scores, and read
    a fixed set of texts alike: texts that tokenizers differ on, texts with each of its special tokens, and the
    vocabulary's own texts, of more than 16,384 every n-th. What shows in none of these is not seen.

    Raises:
        CheckpointError: there is no usable tokenizer.
    """
    tokenizer = load_tokenizer(folder)
    digest = hashlib.sha256()
    for part in _parts(tokenizer):
        digest.update(json.dumps(part).encode() + b"\n")
    return digest.hexdigest()[:16]


def _parts(tokenizer: Tokenizer) -> Iterator[Any]:
    """What a tokenizer is told by; each can be written as JSON."""
    model = json.loads(tokenizer.to_str())["model"]  # in the library's own form, whatever the file's was
    vocabulary = model["vocab"]  # tokens with their ids, or with their scores in the order of their ids
    if isinstance(vocabulary, dict):
        vocabulary = [sorted(vocabulary, key=vocabulary.__getitem__), sorted(vocabulary.values())]
    added = sorted(tokenizer.get_added_tokens_decoder().items())
    yield vocabulary
    yield model.get("merges")
    yield [(index, token.content, token.special) for index, token in added]
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    own = tokenizer.decode_batch([[index] for index in range(0, size, -(-size // _SAMPLED))], skip_special_tokens=False)
    marked = [text for _, token in added for text in (f"a{token.content}b", f" {token.content} x", token.content.upper())]
    yield own
    yield from (_ids(tokenizer, texts, special) for texts in (_PROBES, marked, own) for special in (False, True))


def _ids(tokenizer: Tokenizer, texts: Sequence[str], special: bool) -> list[list[int]]:
    return [read.ids for read in tokenizer.encode_batch_fast(texts, add_special_tokens=special)]
