"""The text of each token as it stands within an answer, so that graphs can be read without their tokenizer.

What does not live here: where the texts are kept (graph.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer


def token_texts(tokenizer: Tokenizer, tokens: Iterable[int]) -> tuple[dict[str, str], tuple[int, ...]]:
    """Return the text of each token by its id, and the tokens that are joined to one another.

    A token's text is what it adds to a word before it, with the space between the two where there is one. Joined are those
    that have such a space after a word and none after themselves, as the digits of a number may. Of a token that is a part
    of a character, the text is a replacement character.
    """
    word = tokenizer.encode("a", add_special_tokens=False).ids[-1:]
    wanted = sorted(set(tokens))
    after_word = _added(tokenizer, [(word, token) for token in wanted])
    after_itself = _added(tokenizer, [([token], token) for token in wanted])
    texts = {str(token): text for token, text in zip(wanted, after_word, strict=True)}
    pairs = zip(wanted, after_word, after_itself, strict=True)
    return texts, tuple(token for token, first, then in pairs if first.startswith(" ") and first[1:] == then)


def _added(tokenizer: Tokenizer, pairs: list[tuple[list[int], int]]) -> list[str]:
    """What each token adds to the text of those before it."""
    before = tokenizer.decode_batch([ids for ids, _ in pairs], skip_special_tokens=False)
    whole = tokenizer.decode_batch([[*ids, token] for ids, token in pairs], skip_special_tokens=False)
    alone = tokenizer.decode_batch([[token] for _, token in pairs], skip_special_tokens=False)
    # A decoder that rewrites what came before leaves no difference to take.
    return [w[len(b) :] if w.startswith(b) else a for b, w, a in zip(before, whole, alone, strict=True)]
