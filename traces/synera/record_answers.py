"""A model's own greedy answers to many prompts at a time: what answers are compared with that have no other reference.

What does not live here: the comparison (traces/tasks/scoring.py) and the graphs (record.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from runtime.model.decoder import Decoder
from runtime.model.kv import RaggedKV
from traces.synera.record_models import Models

_TOGETHER = 16  # prompts of one forward


def llm_answers(models: Models, prompts: Sequence[str], max_new_tokens: int) -> Iterator[tuple[str, str]]:
    """Yield each prompt with the answer that graphs hold where every token is the LLM's; its text, without special tokens.

    Raises:
        ContextOverflowError: a prompt leaves no room for an answer; before any is answered.
    """
    encoded = [models.encode(prompt, max_new_tokens) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))  # alike in length, so that few wait for the longest
    for start in range(0, len(order), _TOGETHER):
        some = order[start : start + _TOGETHER]
        said = greedy_batch(models.llm, [encoded[i] for i in some], max_new_tokens, models.eos_ids)
        for i, tokens in zip(some, said, strict=True):
            yield prompts[i], models.tokenizer.decode(tokens, skip_special_tokens=True)


@torch.inference_mode()
def greedy_batch(
    model: Decoder, prompts: Sequence[Sequence[int]], max_new_tokens: int, eos_ids: frozenset[int]
) -> list[list[int]]:
    """Return a model's greedy answers to tokenized prompts, each with the token that ends it.

    Args:
        model: at its last exit.
        prompts: token ids, at least one each.
        max_new_tokens: where answers are cut.
        eos_ids: what ends them.
    """
    caches, said = [model.new_cache() for _ in prompts], [list[int]() for _ in prompts]
    fresh, going = [list(prompt) for prompt in prompts], list(range(len(prompts)))
    while going:
        lengths = [len(fresh[i]) for i in going]
        starts = [len(prompts[i]) + len(said[i]) - len(fresh[i]) for i in going]
        ids = torch.tensor([token for i in going for token in fresh[i]])
        positions = torch.cat([torch.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
        hidden = model.run(model.embed(ids), positions, RaggedKV([caches[i] for i in going], lengths))
        last = torch.tensor(lengths).cumsum(0) - 1
        for i, token in zip(going, model.logits(hidden[last.to(hidden.device)]).argmax(-1).tolist(), strict=True):
            said[i].append(token)
            fresh[i] = [token]
        going = [i for i in going if len(said[i]) < max_new_tokens and said[i][-1] not in eos_ids]
    return said
