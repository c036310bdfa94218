"""Training Medusa heads on one frozen model (Medusa-1, arXiv 2401.10774): the recipe, the loss, and the file that the device loads.

What does not live here: the run (training.py), the texts (adapter_texts.py), and the heads as they draft (runtime/hat/medusa.py).
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

from runtime.hat.knobs import MAX_DRAFT_LENGTH
from runtime.hat.medusa import FILE, FORMAT, MedusaStated
from runtime.model.decoder import Decoder
from runtime.model.kv import RaggedKV
from runtime.settings import whole, within
from traces.files import replacing
from traces.hat.adapter_texts import Text, Texts
from traces.hat.training import Notes, Recipe, trained

CHECKPOINT = "medusa.ckpt"
"""Its name in a run's folder."""
_KEPT_BYTES = 2**30  # of states


@dataclass(frozen=True)
class MedusaRecipe(Recipe):
    """How heads are trained.

    Raises:
        SettingError: a value is outside its range.
    """

    learning_rate: float = 3e-3
    heads: int = 4
    decay: float = 0.8
    """A head's loss weighs so many times that of the head before it, as in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("heads", self.heads, 1, MAX_DRAFT_LENGTH)
        within("decay", self.decay, 0, 1)


class MedusaModule(nn.Module):
    """The heads as torch trains them, in float32; its state has the names of the file.

    They begin as the identity: each says what the model itself says next.
    """

    def __init__(self, stated: MedusaStated) -> None:
        super().__init__()
        self.stated = stated
        self.heads = nn.ModuleList(nn.Linear(stated.hidden, stated.hidden) for _ in range(stated.heads))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, normed: Tensor) -> list[Tensor]:
        """Normed last states [rows, hidden] to what the output head reads of each head, [rows, hidden]."""
        return [normed + F.silu(head(normed)) for head in self.heads]


class LastStates(NamedTuple):
    """What the frozen model computes of texts, laid end to end, and what each head is to say there."""

    normed: Tensor
    """After the final norm, of the rows after which a token of an answer comes, float32 [rows, hidden]."""
    wanted: Tensor
    """The token that each head is to say, int64 [heads, rows]; -1 behind the end of an answer."""


def last_states(decoder: Decoder, texts: Sequence[Text], heads: int) -> LastStates:
    """Run the frozen model over texts."""
    lengths = [len(text.ids) for text in texts]
    kv = RaggedKV([decoder.new_cache() for _ in texts], lengths)
    with torch.inference_mode():
        ids = torch.tensor([token for text in texts for token in text.ids])
        places = torch.cat([torch.arange(length) for length in lengths])
        states = decoder.run(decoder.embed(ids), places, kv)
        learned = torch.tensor([each for text in texts for each in text.learned], device=decoder.device)
        normed = decoder.ends.norm(states[learned]).float()
    wanted = torch.cat([_wanted(text, heads) for text in texts], 1)[:, learned.cpu()]
    # A clone: what was made in inference mode cannot be part of what is differentiated.
    return LastStates(normed.clone(), wanted.to(decoder.device))


class _Known:
    """Last states of texts, kept up to a limit: the model is frozen, so a text that comes again need not be run again.

    Each is run by itself, so that what a resumed run meets is the same to the last bit.
    """

    def __init__(self, decoder: Decoder, heads: int) -> None:
        self._decoder, self._heads = decoder, heads
        self._kept, self._bytes = dict[Text, LastStates](), 0

    def of(self, texts: Sequence[Text]) -> LastStates:
        """Of texts, laid end to end."""
        each = [self._of(text) for text in texts]
        return LastStates(torch.cat([one.normed for one in each]), torch.cat([one.wanted for one in each], 1))

    def _of(self, text: Text) -> LastStates:
        if (kept := self._kept.get(text)) is not None:
            return kept
        found = last_states(self._decoder, [text], self._heads)
        size = found.normed.numel() * found.normed.element_size()
        if self._bytes + size <= _KEPT_BYTES:
            self._kept[text] = found
            self._bytes += size
        return found


def _wanted(text: Text, heads: int) -> Tensor:
    """For each head and position the token of the same answer that it is to say, or -1, int64 [heads, positions]."""
    length, ids, learned = len(text.ids), torch.tensor(text.ids), torch.tensor(text.learned)
    wanted, inside = torch.full((heads, length), -1), learned.clone()
    for head in range(heads):
        ahead = head + 2
        if ahead >= length:
            break
        # All tokens between are of the answer, and so is this one.
        inside = inside[: length - ahead] & learned[ahead - 1 : length - 1]
        wanted[head, : length - ahead] = torch.where(inside, ids[ahead:], -1)
    return wanted


class MedusaLosses(NamedTuple):
    """The loss and its parts."""

    whole: Tensor
    first: Tensor
    """Cross-entropy of the first head, in nats."""
    last: Tensor
    """Of the last one."""


def medusa_losses(module: MedusaModule, decoder: Decoder, found: LastStates, decay: float) -> MedusaLosses:
    """Cross-entropies of the heads, each a mean over its rows, the j-th, from 1, weighed by decay to the j."""
    head, vocab = decoder.ends.head.float(), decoder.config.vocab
    each = [
        F.cross_entropy(F.linear(out, head)[:, :vocab], wanted, ignore_index=-1, reduction="sum")
        / (wanted >= 0).sum().clamp(min=1)
        for out, wanted in zip(module(found.normed), found.wanted, strict=True)
    ]
    whole = torch.stack([decay**number * loss for number, loss in enumerate(each, 1)]).sum()
    return MedusaLosses(whole, each[0], each[-1])


def train_medusa(
    decoder: Decoder, texts: Texts, recipe: MedusaRecipe, model: str, out: Path, notes: Notes, *, resume: bool = False
) -> Path:
    """Train heads, from the identity or from the run's last checkpoint; see :func:`traces.hat.train_adapter.train`.

    Args:
        decoder: the whole model, frozen.
        texts: what they are trained on; best the model's own answers.
        recipe: number and length.
        model: fingerprint of the model's folder.
        out: the run's folder.
        notes: what the file states of its training beside the recipe.
        resume: go on from the checkpoint that is there.

    Returns:
        The heads' file.

    Raises:
        TraceError: see there.
    """
    stated = MedusaStated(FORMAT, model, recipe.first, decoder.config.hidden, recipe.heads, asdict(recipe) | notes)
    module, known = MedusaModule(stated).to(decoder.device), _Known(decoder, recipe.heads)

    def meet(some: Sequence[Text]) -> MedusaLosses:
        return medusa_losses(module, decoder, known.of(some), recipe.decay)

    trained(module, meet, texts, recipe, {"model": model, **stated.training}, out / CHECKPOINT, resume=resume)
    save_heads(module, stated, out / FILE)
    return out / FILE


def save_heads(module: MedusaModule, stated: MedusaStated, file: Path) -> None:
    """Write what :meth:`runtime.hat.medusa.MedusaHeads.load` reads, whole or not at all."""
    tensors = {name: t.detach().float().cpu().contiguous() for name, t in module.state_dict().items()}
    with replacing(file) as part:
        save_file(tensors, part, metadata=stated.metadata())
