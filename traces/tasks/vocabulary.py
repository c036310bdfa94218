"""The vocabulary of the generated world and the bundled tokenizer: whole words, single digits, punctuation."""

from __future__ import annotations

import re

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from traces.tasks import wording
from traces.tasks.world import world

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<ans>", "<unk>")


def vocabulary() -> list[str]:
    """Return every token of the bundled tokenizer, special tokens first, in a fixed order."""
    texts = [w for group in (*wording.QUESTIONS.values(), *wording.FORM_GROUPS) for w in group]
    texts += [*wording.ADD, *wording.SUBTRACT, *wording.MULTIPLY, "; : , . ? + - x ="]
    texts += [
        *wording.ATTRIBUTES,
        *wording.TRADES,
        *wording.FEASTS,
        *wording.FIRST,
        *wording.LAST,
        *wording.ITEMS,
        *wording.GOODS,
        *wording.EXTRA_WORDS,
    ]
    texts += [*world().towns, *(v for f in world().facts.values() for a, v in f.items() if a != "founding")]
    words = {w for text in texts for w in re.findall(r"[A-Za-z]+|[^\sA-Za-z\d{}\[\]|]", re.sub(r"\{\w\}", " ", text))}
    return [*SPECIAL_TOKENS, *"0123456789", *sorted(words)]


def build_tokenizer() -> Tokenizer:
    """Build the bundled `tokenizers.Tokenizer`: whole words, single digits, punctuation.

    `encode(prompt)` gives `<bos> prompt <ans>`, ready for the models; `encode(answer, add_special_tokens=False)` the
    bare answer; `decode` gives the text back exactly (numbers joined, punctuation attached).
    """
    ids = {token: i for i, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <ans>", special_tokens=[("<bos>", ids["<bos>"]), ("<ans>", ids["<ans>"])]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex(r"^"), " "),
            decoders.Fuse(),
            decoders.Replace(Regex(r"(?<=\d) (?=\d)"), ""),
            decoders.Replace(Regex(r" (?=[.,;:?])"), ""),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer
