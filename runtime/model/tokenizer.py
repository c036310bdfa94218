"""Tokenizers as device and cloud load them: a Hugging Face `tokenizer.json`, and the hash that tells two apart."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tokenizers import Tokenizer

from runtime.errors import CheckpointError
from runtime.model.folder import model_file


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Load the tokenizer of a model folder; :func:`encode` gives what the model reads.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = model_file(folder, "tokenizer.json", "save it beside the weights with save_pretrained()")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every kind of bad file
        raise CheckpointError(f"{path} is not a tokenizer file: {error}") from None
    tokenizer.no_padding()
    return tokenizer


def encode(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return the token ids of a prompt, as every part of the project reads it."""
    return list(tokenizer.encode(prompt).ids)


def tokenizer_hash(folder: str | Path) -> str:
    """Return a short hash of what maps text to ids: the model, the added tokens and the template.

    Raises:
        CheckpointError: there is no readable tokenizer.
    """
    load_tokenizer(folder)
    stated = json.loads((Path(folder) / "tokenizer.json").read_text())
    kept = {key: stated.get(key) for key in ("model", "added_tokens", "pre_tokenizer", "normalizer", "post_processor")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
