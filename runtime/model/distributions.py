"""A model's distributions over its vocabulary, where the model runs: cut, proposed from, drawn from, and acceptance by them.

What does not live here: settings, keyed draws and proposals (runtime/sampling.py), and greedy acceptance (runtime/rules.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from runtime.model.placement import moved
from runtime.rules import Acceptance
from runtime.sampling import MOST_IDS, Draws, Proposal, Purpose, Sampling


@torch.inference_mode()
def truncated(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return the distributions that :class:`runtime.sampling.Sampling` makes of logits.

    Args:
        logits: [rows, vocab], of any type.
        sampling: temperature, top-k and top-p.

    Returns:
        float64 [rows, vocab], in the order of the ids; 0 where it was cut.
    """
    scaled = logits.double() / sampling.temperature
    if not sampling.top_k and sampling.top_p == 1:
        return scaled.softmax(-1)
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    kept = _cut(ordered[:, : sampling.top_k or None].softmax(-1), sampling.top_p)
    return torch.zeros_like(scaled).scatter_(-1, ids[:, : kept.shape[1]], kept / kept.sum(-1, keepdim=True))


@torch.inference_mode()
def propose(logits: Tensor, sampling: Sampling) -> Proposal:
    """Return what a draft token is drawn from: the likeliest ids of the truncated distribution, rounded.

    Args:
        logits: [1, vocab].
        sampling: temperature, top-k and top-p.
    """
    scaled = logits[0].double() / sampling.temperature
    likeliest, ids = scaled.topk(min(sampling.top_k or MOST_IDS, len(scaled)))
    kept = _cut((likeliest - (likeliest if sampling.top_k else scaled).logsumexp(-1)).exp()[None], sampling.top_p)[0]
    # Ids are below 2**53, hence exact; so both come over in one transfer.
    figures = torch.stack([ids.double(), kept])[:, :MOST_IDS].cpu().tolist()
    return Proposal.rounded([int(token) for token in figures[0]], figures[1])


def _cut(ordered: Tensor, top_p: float) -> Tensor:
    """Keep of distributions [rows, tokens], the likeliest first, the fewest tokens that reach `top_p`; the others become 0."""
    return ordered if top_p == 1 else ordered.where(ordered.cumsum(-1) - ordered < top_p, 0.0)


@torch.inference_mode()
def draw(weights: Tensor, uniform: float) -> int:
    """Return a token id at a quantile: the likeliest come first, of equals the smaller id.

    Args:
        weights: float64 [vocab], not negative, some positive; any sum.
        uniform: in [0, 1).
    """
    ordered, ids = weights.sort(descending=True, stable=True)
    ends = ordered.cumsum(0)
    place = torch.searchsorted(ends, (uniform * ends[-1])[None], right=True)
    last = ordered.count_nonzero() - 1  # by rounding a quantile may come to the very end
    return int(ids[torch.minimum(place, last)])


@torch.inference_mode()
def accept_sampled(draft: Sequence[int], proposals: Sequence[Proposal], targets: Tensor, draws: Draws) -> Acceptance:
    """Keep a beginning of the draft such that what stands is distributed as if the LLM had sampled it by itself.

    By speculative sampling (Leviathan et al., arXiv 2211.17192, theorem in appendix A.1). In the order of the places, with
    q the draft token's own proposal and p the LLM's distribution after the history and the tokens before it:

    * *Accepted* is a draft token x while u q(x) < p(x) for its ACCEPT uniform u, that is, with probability min(1, p(x) / q(x)).
    * *Recovered* is the token in the place of the first that is not accepted: drawn from max(0, p - q), renormalised, with
      RECOVER. It is never the refused token, as q is above p there.
    * The *bonus* is the token after a draft that was accepted whole: drawn from p with TOKEN.

    Args:
        draft: token ids [n].
        proposals: what each was drawn from [n]; exactly that, or the result is not exact.
        targets: p at each place, float64 [n + 1, vocab], from :func:`truncated`.
        draws: of the place of the first draft token.
    """
    rows = torch.arange(len(draft), device=targets.device)
    likely = targets[rows, moved(torch.tensor(draft, dtype=torch.int64), targets.device)].tolist()
    for place, (token, proposal) in enumerate(zip(draft, proposals, strict=True)):
        if draws.uniform(Purpose.ACCEPT) * proposal.probability(token) >= likely[place]:
            return Acceptance(place, draw(_excess(targets[place], proposal), draws.uniform(Purpose.RECOVER)))
        draws = draws.after([token])
    return Acceptance(len(draft), draw(targets[len(draft)], draws.uniform(Purpose.TOKEN)))


def _excess(target: Tensor, proposal: Proposal) -> Tensor:
    """max(0, p - q), [vocab]."""
    ids, mass = torch.tensor(proposal.ids), torch.tensor(proposal.probabilities, dtype=torch.float64)
    return target.index_add(0, moved(ids, target.device), moved(mass, target.device), alpha=-1.0).clamp_(min=0.0)
