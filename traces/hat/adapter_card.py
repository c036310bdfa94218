"""The card of an adapter or of Medusa heads: what its drafts are worth on test prompts, beside the paper's figures.

What does not live here: how that is measured (adapter_drafts.py) and which prompts there are (adapter_texts.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from runtime.hat.drafters import Drafter
from runtime.hat.medusa import MedusaHeads
from runtime.model.decoder import Decoder
from traces.files import write_text
from traces.hat.adapter_drafts import DraftRule, Figures
from traces.hat.adapter_texts import EXCHANGES, WorldTexts
from traces.tasks import tinyworld

PAPER_ACCEPT_LENGTH, PAPER_SPEED_UP = 2.06, 1.65
"""HAT, arXiv 2503.18989: Vicuna-7B on SpecBench, one device."""
Group = tuple[str, int]
"""A kind of prompt, and how many exchanges came before it."""


def world_prompts(texts: WorldTexts, count: int) -> dict[Group, list[list[int]]]:
    """Return so many prompts, as tokens, of each kind after each number of earlier exchanges."""
    found = {}
    for number, kind in enumerate(tinyworld.KINDS):
        for exchanges in range(EXCHANGES + 1):
            rng = np.random.default_rng([1, number, exchanges])
            found[kind, exchanges] = texts.prompts(rng, kind, exchanges, count)
    return found


def write_card(out: Path, decoder: Decoder, drafter: Drafter, found: Mapping[Group, Figures], rule: DraftRule) -> Path:
    """Write `out / README.md` of what was measured of what drafts."""
    pooled = Figures.pooled(list(found.values()))
    lines = [*_head(decoder, drafter), *_worth(found, pooled), *_cost(decoder, drafter, pooled, rule), *_drafts(pooled)]
    write_text(out / "README.md", "\n".join([*lines, *_confidence(pooled), ""]))
    return out / "README.md"


def _head(decoder: Decoder, drafter: Drafter) -> list[str]:
    stated, first = drafter.stated, drafter.first
    notes = ", ".join(f"{name} {value}" for name, value in stated.training.items())
    size = f"{drafter.weight_bytes:,} bytes in {_name(decoder.dtype)}. Licence: Apache-2.0."
    if isinstance(drafter, MedusaHeads):
        return [
            "# Medusa heads",
            "",
            f"{drafter.heads} residual blocks that read the last state of the model `{stated.model}` and say, by its own output head, the tokens after",
            "the next one (Medusa-1; a chain of the likeliest, no tree): a baseline beside HAT's adapter. Trained by",
            f"`synera train-adapter --drafter medusa` ({notes}). {size}",
        ]
    return [
        "# An adapter",
        "",
        f"One attention block between the first {first} of {decoder.config.layers} layers and the final norm and head of the model",
        f"`{stated.model}` (HAT): with it a device that has {first} layers drafts what the whole model says. Trained by",
        f"`synera train-adapter` ({notes}). {size}",
    ]


def _worth(found: Mapping[Group, Figures], pooled: Figures) -> list[str]:
    lines = [
        "",
        "## What drafts are worth",
        "",
        f"Greedy speculative decoding on one device ({pooled.answers} answers to test prompts): draft, verify in one forward of what of the model",
        "has not seen it, keep the matching prefix and the model's own token. Accept length counts that token, too, and so is held against the paper's 2.06",
        "(as we read it: were the own token not in it, a verification would commit 3.06 and, at 1.65 x, take the time of 1.85 tokens).",
        "",
        *_table("prompts", "answers", "accept length", "without the model's own", "drafted", "speed-up"),
    ]
    groups = {"all": pooled}
    if len(found) > 1:
        for place, what in ((0, "{}"), (1, "earlier exchanges: {}")):
            keys = dict.fromkeys(group[place] for group in found)
            groups |= {what.format(key): Figures.pooled([f for g, f in found.items() if g[place] == key]) for key in keys}
    for name, figures in groups.items():
        measured = (figures.committed, figures.accepted, figures.drafted, figures.speed_up)
        lines.append(_row(name, figures.answers, *(f"{figure:.2f}" for figure in measured)))
    return [*lines, _row("the adapter of HAT's paper (Vicuna-7B, SpecBench)", "", PAPER_ACCEPT_LENGTH, "", "", PAPER_SPEED_UP)]


def _cost(decoder: Decoder, drafter: Drafter, pooled: Figures, rule: DraftRule) -> list[str]:
    config, head = decoder.config, decoder.ends.head
    layers, read = (decoder.weight_bytes - _end_bytes(decoder)) / len(decoder.layers), head.numel() * head.element_size()
    whole = config.layers * layers + read
    if isinstance(drafter, MedusaHeads):
        share = (drafter.weight_bytes + read) / whole
        longest = min(rule.longest, drafter.heads)
        dear = [
            f"thread(s), after the first token. A draft, however long, reads {share:.2f} of the whole model's weights (heads and output head)."
        ]
    else:
        share, longest = (drafter.first * layers + drafter.weight_bytes + read) / whole, rule.longest
        dear = [
            f"thread(s), after the first token. A draft token reads {share:.2f} of the whole model's weights ({drafter.first} layers, adapter and head of {config.layers} layers and",
            "head), where the paper's reads 2 layers of 32: a small model's draft is dear, and so gains less by the clock.",
        ]
    per_token = [1000 * seconds / max(1, pooled.tokens) for seconds in (pooled.plain_seconds, pooled.seconds)]
    return [
        "",
        f"Drafts end with the first token of a probability below {rule.eta:g}, or with {longest} tokens. Tokens are those of plain decoding in {pooled.same} of",
        f"{pooled.answers} answers. By the clock: {per_token[0]:.2f} ms a token without drafts, {per_token[1]:.2f} with them, side by side in one run, {_name(decoder.dtype)} on {decoder.device.type}, {torch.get_num_threads()}",
        *dear,
    ]


def _drafts(pooled: Figures) -> list[str]:
    lines = [
        "",
        "## By position and length",
        "",
        *_table("position", "drafts that have it", "stand", "stand, if all before did"),
    ]
    for place, (drafts, stand, given) in enumerate(pooled.by_position(), 1):
        lines.append(_row(place, drafts, f"{stand:.3f}", f"{given:.3f}"))
    lines += ["", *_table("tokens of a draft", "share of drafts")]
    return lines + [_row(length, f"{share:.3f}") for length, share in pooled.by_length().items()]


def _confidence(pooled: Figures) -> list[str]:
    lines = [
        "",
        "## By confidence",
        "",
        "The draft model's probability of its token against how often it stands.",
        "",
        *_table("confidence", "draft tokens", "stand", "stand, if all before did"),
    ]
    for each in pooled.by_confidence():
        lines.append(_row(f"{each.low:g} to {each.high:g}", each.tokens, f"{each.accepted:.3f}", f"{each.right:.3f}"))
    return lines


def _end_bytes(decoder: Decoder) -> int:
    tensors = {id(t): t for t in (decoder.ends.embedding, decoder.ends.head, decoder.ends.norm.weight)}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _table(*cells: str) -> Sequence[str]:
    return _row(*cells), "|" + "---|" * len(cells)


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
