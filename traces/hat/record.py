"""Recording HAT's graphs: the model's own answers through the split, in each precision, and the drafts at each of their places.

What does not live here: the format (graph.py) and the prompts (dialogues.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from runtime.hat.adapter import Adapter
from runtime.hat.drafters import Drafter, load_drafter, stated_first
from runtime.hat.medusa import MedusaHeads
from runtime.model.decoder import Decoder
from runtime.model.frame import Frame
from runtime.model.loading import fingerprint, load_decoder
from runtime.model.split import Split
from runtime.model.tokenizer import load_tokenizer, tokenizer_hash
from runtime.model.tree_kv import TreeKV
from runtime.session import Limits
from runtime.wire.sizes import PRECISIONS
from runtime.wire.tensors import quantised
from traces.hat.dialogues import Dialogue
from traces.hat.graph import CANDIDATES, DRAFTED, HatGraphs, HatMeta
from traces.synera.record_texts import token_texts

Score = Callable[[str, str], float]
"""(question, answer) to task score, 0..1."""


@dataclass(frozen=True)
class HatModels:
    """What is recorded: a whole model, cut in two, and what drafts for it."""

    model: Decoder
    split: Split
    adapter: Drafter
    """An adapter, or Medusa heads."""
    tokenizer: Tokenizer
    model_fingerprint: str
    tokenizer_hash: str
    frame: Frame = Frame()

    @classmethod
    def load(cls, model: Path, adapter: Path, split: Split | None = None, frame: Frame = Frame()) -> Self:
        """Load a model folder and what drafts for it; the split is by default where that was trained.

        Raises:
            CheckpointError: one of them is missing, damaged, or of another model or split.
        """
        decoder, mark = load_decoder(model), fingerprint(model)
        split = split or Split(stated_first(adapter))
        split.middle(decoder.config.layers)
        loaded = load_drafter(adapter, decoder, mark)
        return cls(decoder, split, loaded, load_tokenizer(model), mark, tokenizer_hash(model), frame)


@dataclass(frozen=True)
class HatRecorder:
    """Records prompts of one model."""

    models: HatModels
    score: Score
    scorer: str
    """Its name."""
    max_new_tokens: int

    def record(self, prompts: Sequence[Dialogue], split: str, done: Callable[[], object] = lambda: None) -> HatGraphs:
        """Record a set of prompts.

        Args:
            prompts: what to answer.
            split: its name.
            done: called after each.
        """
        m, encoded, paths = self.models, [], []
        for prompt in prompts:
            ids = m.frame.encode(m.tokenizer, prompt.text)
            encoded.append(ids)
            paths.append(self._paths(ids, prompt.question))
            done()
        flips = {
            f"answers_changed_{name}": sum(by[place]["token"].tolist() != by[0]["token"].tolist() for by in paths) / len(paths)
            for place, name in enumerate(PRECISIONS)
            if place
        }
        said = {int(token) for by in paths for path in by for token in path["token"].tolist()}
        texts, joined = token_texts(m.tokenizer, said | self._limits.eos_ids)
        meta = HatMeta(
            first_layers=m.split.first,
            last_layers=m.split.last,
            hidden=m.model.config.hidden,
            precisions=PRECISIONS,
            eos_ids=tuple(sorted(self._limits.eos_ids)),
            max_new_tokens=self.max_new_tokens,
            context=m.model.config.context,
            model_fingerprint=m.model_fingerprint,
            adapter_fingerprint=m.adapter.fingerprint,
            tokenizer_hash=m.tokenizer_hash,
            split=split,
            prompts=tuple(prompt.text for prompt in prompts),
            kinds=tuple(prompt.kind for prompt in prompts),
            questions=tuple(prompt.question for prompt in prompts),
            notes=flips,
            texts=texts,
            joined=joined,
            scorer=self.scorer,
            frame=m.frame.stated,
            medusa_heads=m.adapter.heads if isinstance(m.adapter, MedusaHeads) else 0,
        )
        return HatGraphs.build(meta, encoded, paths)

    def _paths(self, ids: Sequence[int], question: str) -> list[dict[str, Any]]:
        """A prompt's path in each precision."""
        drafter, score = self.models.adapter, cache(lambda answer: self.scored(question, answer))
        paths, known = list[dict[str, Any]](), dict[tuple[int, ...], dict[str, NDArray[Any]]]()
        for precision in PRECISIONS:
            answer, finals = self._said(ids, precision)
            if isinstance(drafter, MedusaHeads):  # what they read came back in that precision
                drafts = self._chains(drafter, answer, finals)
            else:
                key = tuple(answer)
                drafts = known[key] = known[key] if key in known else self._drafts(drafter, ids, answer)
            paths.append(drafts | {"token": np.array(answer, np.int32), "score": score(tuple(answer))})
        return paths

    @property
    def _limits(self) -> Limits:
        config = self.models.model.config
        return Limits(self.max_new_tokens, frozenset((*config.eos_ids, *self.models.frame.ends)), config.context)

    def scored(self, question: str, answer: Sequence[int]) -> float:
        """Return the score of an answer's tokens."""
        return self.score(question, self.models.tokenizer.decode(list(answer), skip_special_tokens=True))

    def answer(self, prompt: Sequence[int], precision: str) -> list[int]:
        """Return what the model says where states travel in a precision, greedily, up to its end."""
        return self._said(prompt, precision)[0]

    @torch.inference_mode()
    def _said(self, prompt: Sequence[int], precision: str) -> tuple[list[int], Tensor]:
        """An answer, and the last states after which each of its tokens was said, [places, hidden]."""
        m, limits = self.models, self._limits
        cut, kv = m.model.config.layers - m.split.last, m.model.new_cache()
        answer, finals, room = list[int](), list[Tensor](), limits.room(len(prompt))
        rows, first = list(prompt), 0
        while len(answer) < room:
            places = torch.arange(first, first + len(rows))
            states = m.model.run(m.model.embed(torch.tensor(rows)), places, kv, 0, m.split.first)
            states = m.model.run(quantised(states, precision), places, kv, m.split.first, cut)
            states = m.model.run(quantised(states, precision), places, kv, cut)
            finals.append(states[-1:])
            token = int(m.model.logits(states[-1:]).argmax())
            answer.append(token)
            if token in limits.eos_ids:
                break
            first, rows = first + len(rows), [token]
        return answer, torch.cat(finals)

    @torch.inference_mode()
    def _chains(self, heads: MedusaHeads, answer: Sequence[int], finals: Tensor) -> dict[str, NDArray[Any]]:
        """What Medusa heads draft at each place of an answer, from the state that came back before it."""
        places, count = len(answer), heads.heads
        draft, confidence, margin = _nothing(places)
        best, said = heads.logits(self.models.model, finals[:-1]).float().softmax(-1).topk(CANDIDATES, -1)
        draft[1:, :count] = said.numpy()
        confidence[1:, :count] = best[..., 0].numpy()
        margin[1:, :count] = (best[..., 0] - best[..., 1]).numpy()
        ends = np.isin(draft[:, :, 0], list(self._limits.eos_ids))
        behind = np.cumsum(ends, 1) - ends > 0
        draft[behind], confidence[behind], margin[behind] = -1, 0, 0
        return {"draft": draft, "confidence": confidence, "margin": margin}

    @torch.inference_mode()
    def _drafts(self, adapter: Adapter, prompt: Sequence[int], answer: Sequence[int]) -> dict[str, NDArray[Any]]:
        """What an adapter drafts at each place of an answer, after the tokens before it."""
        m, places = self.models, len(answer)
        ids = torch.tensor([*prompt, *answer[:-1]])
        ends, own = m.model.new_tree(), TreeKV(adapter.shape, dtype=m.model.dtype, device=m.model.device)
        draft, confidence, margin = _nothing(places)
        length = len(ids)
        paths = torch.arange(length).expand(length, -1).contiguous()
        slots, lengths, entering, next_slot = torch.arange(length), torch.arange(1, length + 1), ids, length
        open_ = np.ones(places, bool)  # chains that have not ended the answer
        for step in range(DRAFTED):
            adapted = self._adapted(adapter, ends, own, entering, slots, paths, lengths)
            best, said = m.model.logits(adapted[-places:]).float().softmax(-1).topk(CANDIDATES, -1)
            draft[open_, step] = said.numpy()[open_]
            confidence[open_, step] = best[:, 0].numpy()[open_]
            margin[open_, step] = (best[:, 0] - best[:, 1]).numpy()[open_]
            open_ &= ~np.isin(draft[:, step, 0], list(self._limits.eos_ids))
            if step == 0:  # from here on a row a place
                paths, lengths = paths[-places:], lengths[-places:]
            entering = said[:, 0]
            slots, next_slot = torch.arange(next_slot, next_slot + places), next_slot + places
            grown = torch.zeros(places, paths.shape[1] + 1, dtype=torch.int64)
            grown[:, : paths.shape[1]] = paths
            grown[torch.arange(places), lengths] = slots
            paths, lengths = grown, lengths + 1
            if int(lengths.max()) > m.model.config.context or not open_.any():
                break
        return {"draft": draft, "confidence": confidence, "margin": margin}

    def _adapted(
        self, adapter: Adapter, ends: TreeKV, own: TreeKV, ids: Tensor, slots: Tensor, paths: Tensor, lengths: Tensor
    ) -> Tensor:
        """What the adapter makes of tokens at the ends of paths: [rows, hidden]."""
        m, places = self.models, lengths - 1
        ends.place(slots, paths, lengths)
        own.place(slots, paths, lengths)
        states = m.model.run(m.model.embed(ids), places, ends, 0, m.split.first)
        return adapter.run(states, m.model.turns(places), own)


def _nothing(places: int) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Draft tokens, confidences and margins of places at which nothing is drafted."""
    confidence, margin = (np.zeros((places, DRAFTED), np.float32) for _ in range(2))
    return np.full((places, DRAFTED, CANDIDATES), -1, np.int32), confidence, margin
