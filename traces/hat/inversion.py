"""Attacks on hidden states: which token a row is of, told from the states that a cloud receives and what is public.

Four attacks, of whoever holds the model's public weights. **embedding**: the token whose embedding is nearest by its cosine.
**lens**: what the final norm and the head say of the row, taken for the row's own token. **probe**: softmax regression, fitted
to states of public texts. **replay**: an exact inversion that needs no training; position by position every token of the
vocabulary is run through the public shallow layers behind what was read so far, and the one whose state is nearest is taken.
What does not live here: the texts (texts.py), what is made of the guesses (recovery.py), precisions (runtime/wire/tensors.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.model.decoder import Decoder
from runtime.model.kv import RaggedKV
from runtime.model.tree_kv import TreeKV
from runtime.wire.tensors import quantised

Target = tuple[int, str]
"""Depth, in layers that were run before the state is sent, and precision."""
_CANDIDATES = 2048  # rows of a forward of the replay
_EPOCHS, _BATCH, _LEARNING_RATE = 6, 512, 0.02  # of the probe


def states(decoder: Decoder, texts: Sequence[Sequence[int]], depths: Sequence[int]) -> dict[int, Tensor]:
    """Run texts and return their hidden states by depth, each [rows, hidden]; rows are texts end to end.

    Args:
        decoder: the model.
        texts: token ids of each, at least one.
        depths: rising; 0 is the embeddings.
    """
    caches = RaggedKV([decoder.new_cache() for _ in texts], [len(text) for text in texts])
    positions = torch.cat([torch.arange(len(text)) for text in texts])
    hidden = decoder.embed(torch.tensor([token for text in texts for token in text]))
    return dict(_by_depth(decoder, hidden, positions, caches, depths))


def answers(decoder: Decoder, prompts: Sequence[Sequence[int]], most_tokens: int) -> list[list[int]]:
    """Return greedy answers without their end, each at most so many tokens long.

    Args:
        decoder: the model.
        prompts: token ids of each.
        most_tokens: of an answer.
    """
    said: list[list[int]] = [[] for _ in prompts]
    caches = [decoder.new_cache() for _ in prompts]
    rows = {i: list(prompt) for i, prompt in enumerate(prompts)}
    while rows:
        batch = RaggedKV([caches[i] for i in rows], [len(ids) for ids in rows.values()])
        read = [len(prompts[i]) + len(said[i]) - len(ids) for i, ids in rows.items()]
        positions = [torch.arange(at, at + len(ids)) for at, ids in zip(read, rows.values(), strict=True)]
        hidden = decoder.embed(torch.tensor([token for ids in rows.values() for token in ids]))
        hidden = decoder.run(hidden, torch.cat(positions), batch)
        last = torch.tensor([len(ids) for ids in rows.values()]).cumsum(0) - 1
        following = dict(zip(rows, decoder.logits(hidden[last]).argmax(-1).tolist(), strict=True))
        rows = {i: [token] for i, token in following.items() if token not in decoder.config.eos_ids}
        for i, (token,) in rows.items():
            said[i].append(token)
        rows = {i: token for i, token in rows.items() if len(said[i]) < most_tokens}
    return said


def by_embedding(decoder: Decoder, observed: Tensor) -> Tensor:
    """Return the token of the nearest embedding by its cosine, int64 [rows], of states [rows, hidden]."""
    embeddings = decoder.embed(torch.arange(decoder.config.vocab))
    return (F.normalize(observed, dim=-1) @ F.normalize(embeddings, dim=-1).T).argmax(-1)


def by_lens(decoder: Decoder, observed: Tensor) -> Tensor:
    """Return the token that the final norm and head rate highest, int64 [rows], of states [rows, hidden]."""
    return decoder.logits(observed).argmax(-1)


@dataclass(frozen=True)
class Probe:
    """A linear map from states to tokens, of those tokens that it was shown."""

    tokens: Tensor
    """int64 [classes]."""
    mean: Tensor
    """[hidden]."""
    spread: Tensor
    """[hidden]."""
    weights: Tensor
    """[hidden + 1, classes]; the last row is the bias."""

    @classmethod
    def fitted(cls, shown: Tensor, ids: Tensor, seed: int = 0) -> Probe:
        """Fit softmax regression by Adam on standardised states.

        Args:
            shown: [rows, hidden].
            ids: the token of each, int64 [rows].
            seed: orders the rows.
        """
        tokens, classes = ids.unique(return_inverse=True)
        mean, spread = shown.mean(0), shown.std(0).clamp(min=1e-6)
        rows = _with_bias((shown - mean) / spread)
        weights = torch.zeros(rows.shape[1], len(tokens), requires_grad=True)
        optimiser = torch.optim.Adam([weights], lr=_LEARNING_RATE)
        order = torch.Generator().manual_seed(seed)
        for _ in range(_EPOCHS):
            for batch in torch.randperm(len(rows), generator=order).split(_BATCH):
                optimiser.zero_grad()
                F.cross_entropy(rows[batch] @ weights, classes[batch]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        return cls(tokens, mean, spread, weights.detach())

    def __call__(self, observed: Tensor) -> Tensor:
        """Return the likeliest token, int64 [rows], of states [rows, hidden]."""
        return self.tokens[(_with_bias((observed - self.mean) / self.spread) @ self.weights).argmax(-1)]


def replay(
    decoder: Decoder, observed: Mapping[Target, Tensor], finished: Callable[[], object] = lambda: None
) -> dict[Target, Tensor]:
    """Invert the states of one text exactly, whatever else is not known of it; see the module.

    What was read of a text decides what the next candidates stand behind, so one mistake may bring others. Targets that read
    the same so far share their candidates.

    Args:
        decoder: the model; of it the layers below the deepest target are used.
        observed: the states of one text by target, each [rows, hidden], as the cloud reads them.
        finished: called after each position.

    Returns:
        The tokens of each target, int64 [rows].
    """
    rows = len(next(iter(observed.values())))
    depths = sorted({depth for depth, _ in observed})
    candidates = min(_CANDIDATES, decoder.config.vocab)
    tree = decoder.new_tree(room=candidates + 2 * rows)
    paths: dict[tuple[int, ...], list[int]] = {(): []}  # of what was read, the slots; candidates have the first ones
    known: dict[Target, tuple[int, ...]] = {target: () for target in observed}
    for at in range(rows):
        groups: dict[tuple[int, ...], dict[Target, Tensor]] = {}
        for target, read in known.items():
            groups.setdefault(read, {})[target] = observed[target][at]
        longer: dict[tuple[int, ...], list[int]] = {}
        for read, wanted in groups.items():
            for target, token in _nearest(decoder, tree, paths[read], wanted, depths).items():
                known[target] = (*read, token)
                longer.setdefault(known[target], paths[read])
        first = max((slot + 1 for path in paths.values() for slot in path), default=candidates)
        paths = {read: [*path, first + number] for number, (read, path) in enumerate(longer.items())}
        for read, path in paths.items():
            _fan(decoder, tree, torch.tensor(read[-1:]), path[:-1], path[-1], depths)
        finished()
    return {target: torch.tensor(read) for target, read in known.items()}


def _nearest(
    decoder: Decoder, tree: TreeKV, path: Sequence[int], wanted: Mapping[Target, Tensor], depths: Sequence[int]
) -> dict[Target, int]:
    """The token behind a path whose state is nearest to the wanted one, by target."""
    best: dict[Target, tuple[float, int]] = {}
    for tokens in torch.arange(decoder.config.vocab).split(_CANDIDATES):
        found = _fan(decoder, tree, tokens, path, 0, depths)
        for target, state in wanted.items():
            distances = torch.linalg.vector_norm(quantised(found[target[0]], target[1]) - state, dim=-1)
            nearest = int(distances.argmin())
            best[target] = min(best.get(target, (torch.inf, -1)), (float(distances[nearest]), int(tokens[nearest])))
    return {target: token for target, (_, token) in best.items()}


def _fan(
    decoder: Decoder, tree: TreeKV, tokens: Tensor, path: Sequence[int], first: int, depths: Sequence[int]
) -> dict[int, Tensor]:
    """The states of tokens by depth, [tokens, hidden], each as if it alone stood behind a path; their slots begin at `first`."""
    rows, at = len(tokens), len(path)
    slots = torch.arange(first, first + rows)
    paths = torch.cat([torch.tensor(path, dtype=torch.int64).expand(rows, -1), slots[:, None]], 1).contiguous()
    tree.place(slots, paths, torch.full((rows,), at + 1))
    return dict(_by_depth(decoder, decoder.embed(tokens), torch.full((rows,), at), tree, depths))


def _by_depth(
    decoder: Decoder, hidden: Tensor, positions: Tensor, kv: RaggedKV | TreeKV, depths: Sequence[int]
) -> dict[int, Tensor]:
    """Run rows on and on, and keep what they are at each depth."""
    found, done = {}, 0
    for depth in depths:
        if depth > done:
            hidden, done = decoder.run(hidden, positions, kv, done, depth), depth
        found[depth] = hidden
    return found


def _with_bias(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
