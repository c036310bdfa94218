"""Kinds of tokenizers that users bring, each trained here in a moment on a few words."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from traces.tasks.vocabulary import build_tokenizer

TEXT = [
    "The quick brown fox jumps over the lazy dog. naïve café 你好 привет 123 hello world " * 3,
    "hello hello there the then",
]
BEGIN, HEAD, END = "<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>"


def _template(token: str, index: int) -> processors.PostProcessor:
    return processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, index)])


def _byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def llama3() -> Tokenizer:
    """Byte-level BPE whose template puts a beginning of text in front."""
    tokenizer = _byte_level([BEGIN, HEAD, END])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), _template(BEGIN, 0)])
    return tokenizer


def qwen() -> Tokenizer:
    """Byte-level BPE with a normaliser and no template."""
    tokenizer = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def llama2() -> Tokenizer:
    """BPE over pieces that begin with a visible space."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = _template("<s>", 1)
    return tokenizer


def unigram() -> Tokenizer:
    """Pieces with scores; the template puts an end behind."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90, unk_token="<unk>", special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def bert() -> Tokenizer:
    """WordPiece, lower case, special tokens at both ends."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "llama3": llama3,
    "qwen": qwen,
    "llama2": llama2,
    "unigram": unigram,
    "bert": bert,
    "bundled": build_tokenizer,
}


@cache
def stated_of(kind: str) -> str:
    return KINDS[kind]().to_str()
