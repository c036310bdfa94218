"""Recording HAT's graphs: the model's own answers through the split, in each precision, and the drafts at each of their places.

What does not live here: the format (graph.py) and the prompts (dialogues.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from runtime.hat.adapter import Adapter, read_stated
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
    """What is recorded: a whole model, cut in two, and its adapter."""

    model: Decoder
    split: Split
    adapter: Adapter
    tokenizer: Tokenizer
    model_fingerprint: str
    tokenizer_hash: str
    frame: Frame = Frame()

    @classmethod
    def load(cls, model: Path, adapter: Path, split: Split | None = None, frame: Frame = Frame()) -> Self:
        """Load a model folder and the adapter of it; the split is by default where that was trained.

        Raises:
            CheckpointError: one of them is missing, damaged, or of another model or split.
        """
        decoder, mark = load_decoder(model), fingerprint(model)
        split = split or Split(read_stated(adapter).first)
        split.middle(decoder.config.layers)
        loaded = Adapter.load(adapter, decoder, mark)
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
            answers = [self.answer(ids, precision) for precision in PRECISIONS]
            known: dict[tuple[int, ...], dict[str, Any]] = {}
            for answer in answers:
                if tuple(answer) not in known:
                    known[tuple(answer)] = self.drafts(ids, answer) | {"score": self.scored(prompt.question, answer)}
            paths.append([known[tuple(answer)] for answer in answers])
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
        )
        return HatGraphs.build(meta, encoded, paths)

    @property
    def _limits(self) -> Limits:
        config = self.models.model.config
        return Limits(self.max_new_tokens, frozenset((*config.eos_ids, *self.models.frame.ends)), config.context)

    def scored(self, question: str, answer: Sequence[int]) -> float:
        """Return the score of an answer's tokens."""
        return self.score(question, self.models.tokenizer.decode(list(answer), skip_special_tokens=True))

    @torch.inference_mode()
    def answer(self, prompt: Sequence[int], precision: str) -> list[int]:
        """Return what the model says where states travel in a precision, greedily, up to its end."""
        m, limits = self.models, self._limits
        cut, kv = m.model.config.layers - m.split.last, m.model.new_cache()
        answer, room = list[int](), limits.room(len(prompt))
        rows, first = list(prompt), 0
        while len(answer) < room:
            places = torch.arange(first, first + len(rows))
            states = m.model.run(m.model.embed(torch.tensor(rows)), places, kv, 0, m.split.first)
            states = m.model.run(quantised(states, precision), places, kv, m.split.first, cut)
            states = m.model.run(quantised(states, precision), places, kv, cut)
            token = int(m.model.logits(states[-1:]).argmax())
            answer.append(token)
            if token in limits.eos_ids:
                break
            first, rows = first + len(rows), [token]
        return answer

    @torch.inference_mode()
    def drafts(self, prompt: Sequence[int], answer: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Return the arrays of a path: at each place of an answer what is drafted after the tokens before it."""
        m, places = self.models, len(answer)
        ids = torch.tensor([*prompt, *answer[:-1]])
        ends, own = m.model.new_tree(), TreeKV(m.adapter.shape, dtype=m.model.dtype, device=m.model.device)
        draft = np.full((places, DRAFTED, CANDIDATES), -1, np.int32)
        confidence, margin = np.zeros((places, DRAFTED), np.float32), np.zeros((places, DRAFTED), np.float32)
        length = len(ids)
        paths = torch.arange(length).expand(length, -1).contiguous()
        slots, lengths, entering, next_slot = torch.arange(length), torch.arange(1, length + 1), ids, length
        open_ = np.ones(places, bool)  # chains that have not ended the answer
        for step in range(DRAFTED):
            adapted = self._adapted(ends, own, entering, slots, paths, lengths)
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
        return {"token": np.array(answer, np.int32), "draft": draft, "confidence": confidence, "margin": margin}

    def _adapted(self, ends: TreeKV, own: TreeKV, ids: Tensor, slots: Tensor, paths: Tensor, lengths: Tensor) -> Tensor:
        """What the adapter makes of tokens at the ends of paths: [rows, hidden]."""
        m, places = self.models, lengths - 1
        ends.place(slots, paths, lengths)
        own.place(slots, paths, lengths)
        states = m.model.run(m.model.embed(ids), places, ends, 0, m.split.first)
        return m.adapter.run(states, m.model.turns(places), own)
