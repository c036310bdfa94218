"""Training an adapter on one frozen model: the recipe, the loss (HAT, arXiv 2503.18989), and the file that the device loads.

What does not live here: the run (training.py), the texts (adapter_texts.py), what drafts are worth (adapter_drafts.py), and the
adapter as it drafts (runtime/hat/adapter.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.hat.adapter import FILE, Stated
from runtime.model.decoder import Decoder
from runtime.model.kv import RaggedKV
from runtime.model.layer import Turns
from traces.files import replacing
from traces.hat.adapter_texts import Text, Texts
from traces.hat.training import Notes, Recipe, trained

CHECKPOINT = "adapter.ckpt"
"""Its name in a run's folder."""


@dataclass(frozen=True)
class AdapterRecipe(Recipe):
    """How an adapter is trained."""

    cross_entropy: float = 0.1
    """Its weight beside the distance of states, as in the paper."""


class AdapterModule(nn.Module):
    """The adapter as torch trains it, in float32; its state has the names of the file.

    It begins as the identity: drafts are then those of an exit after the first layers.
    """

    def __init__(self, stated: Stated, seed: int = 0) -> None:
        super().__init__()
        inner, hidden = stated.heads * stated.head_dim, stated.hidden
        self.stated = stated
        self._heads, self._dim = stated.heads, stated.head_dim
        self.norm = nn.RMSNorm(hidden, stated.norm_eps)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(hidden, inner, bias=False) for _ in "qkv")
        self.o_proj = nn.Linear(inner, hidden, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for projection in (self.q_proj, self.k_proj, self.v_proj):
                projection.weight.normal_(std=hidden**-0.5, generator=generator)
            self.o_proj.weight.zero_()

    def forward(self, states: Tensor, turns: Turns, lengths: Sequence[int]) -> Tensor:
        """States of texts, laid end to end [rows, hidden], to such [rows, hidden]; texts have so many rows each."""
        normed = self.norm(states)
        q, k, v = (each(normed).view(len(states), self._heads, self._dim) for each in (self.q_proj, self.k_proj, self.v_proj))
        columns = (each.split(list(lengths)) for each in (_turned(q, turns), _turned(k, turns), v))
        seen = [_attended(*(t.transpose(0, 1)[None] for t in part)) for part in zip(*columns, strict=True)]
        out = torch.cat([each[0].transpose(0, 1).flatten(1) for each in seen])
        return states + self.o_proj(out)


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _turned(heads: Tensor, turns: Turns) -> Tensor:
    """Turns.apply_, not in place."""
    halves = heads.view(*heads.shape[:2], 2, -1)
    return (halves * turns.cos + halves.flip(2) * turns.sin).flatten(2)


# ---------------------------------------------------------------- what is learned


class Features(NamedTuple):
    """What the frozen model computes of texts, laid end to end."""

    states: Tensor
    """After the first layers, float32 [rows, hidden]."""
    turns: Turns
    lengths: list[int]
    learned: Tensor
    """Which rows are drafted after, bool [rows]."""
    wanted: Tensor
    """The whole model's states before the final norm, of the learned rows, float32 [learned, hidden]."""
    probabilities: Tensor
    """The whole model's distribution there, float32 [learned, vocab]."""


def features(decoder: Decoder, texts: Sequence[Text], first: int) -> Features:
    """Run the frozen model over texts."""
    lengths = [len(text.ids) for text in texts]
    places = torch.cat([torch.arange(length) for length in lengths])
    learned = torch.tensor([each for text in texts for each in text.learned], device=decoder.device)
    kv = RaggedKV([decoder.new_cache() for _ in texts], lengths)
    with torch.inference_mode():
        ids = torch.tensor([token for text in texts for token in text.ids])
        states = decoder.run(decoder.embed(ids), places, kv, 0, first)
        wanted = decoder.run(states, places, kv, first)[learned]
        probabilities = decoder.logits(wanted).float().softmax(-1)
    # Clones: what was made in inference mode cannot be part of what is differentiated.
    states, wanted, probabilities = (t.float().clone() for t in (states, wanted, probabilities))
    turns = decoder.turns(places)
    return Features(states, Turns(turns.cos.float(), turns.sin.float()), lengths, learned, wanted, probabilities)


class Losses(NamedTuple):
    """The paper's loss and its two parts."""

    whole: Tensor
    states: Tensor
    """SmoothL1 between the adapter's states and the whole model's, in units of the latter's root mean square."""
    tokens: Tensor
    """Cross-entropy between the two distributions of tokens, in nats."""


def losses(module: AdapterModule, decoder: Decoder, found: Features, weight: float) -> Losses:
    """SmoothL1 of states plus `weight` times the cross-entropy of the draft's tokens, means over the learned rows.

    States are divided by the root mean square of the whole model's (ours): how large they are differs by model, and where they
    are large, as the bundled LLM's are (17), their distance would drown the tokens.
    """
    out = module(found.states, found.turns, found.lengths)[found.learned]
    norm, head = decoder.ends.norm.weight.float(), decoder.ends.head.float()
    logits = F.linear(F.rms_norm(out, norm.shape, norm, decoder.config.norm_eps), head)[:, : decoder.config.vocab]
    unit = found.wanted.square().mean().sqrt()
    states, tokens = F.smooth_l1_loss(out / unit, found.wanted / unit), F.cross_entropy(logits, found.probabilities)
    return Losses(states + weight * tokens, states, tokens)


# ---------------------------------------------------------------- the run


def train(
    decoder: Decoder, texts: Texts, recipe: AdapterRecipe, model: str, out: Path, notes: Notes, *, resume: bool = False
) -> Path:
    """Train an adapter, from the identity or from the run's last checkpoint.

    Args:
        decoder: the whole model, frozen.
        texts: what it is trained on.
        recipe: shape and length.
        model: fingerprint of the model's folder.
        out: the run's folder: gets the adapter, the checkpoint, `log.jsonl` and TensorBoard's `tb`.
        notes: what the file states of its training beside the recipe.
        resume: go on from the checkpoint that is there.

    Returns:
        The adapter's file.

    Raises:
        TraceError: nothing can be written there, there is a checkpoint though none is to be resumed, or none, or it is damaged
            or of another model or recipe.
    """
    stated = Stated.of(decoder.config, model, recipe.first, asdict(recipe) | notes)
    module = AdapterModule(stated, recipe.seed).to(decoder.device)

    def meet(some: Sequence[Text]) -> Losses:
        return losses(module, decoder, features(decoder, some, recipe.first), recipe.cross_entropy)

    trained(module, meet, texts, recipe, {"model": model, **stated.training}, out / CHECKPOINT, resume=resume)
    save_adapter(module, stated, out / FILE)
    return out / FILE


def save_adapter(module: AdapterModule, stated: Stated, file: Path) -> None:
    """Write what :meth:`runtime.hat.adapter.Adapter.load` reads, whole or not at all."""
    tensors = {name: t.detach().float().cpu().contiguous() for name, t in module.state_dict().items()}
    with replacing(file) as part:
        save_file(tensors, part, metadata=stated.metadata())
