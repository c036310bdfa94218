"""Sampling as it travels: its values made into messages by the device, and read back by the cloud with suspicion.

What does not live here: the sizes of the messages (sizes.py) and what is done with the values (runtime/model/distributions.py).
"""

from __future__ import annotations

from runtime.errors import SettingError
from runtime.sampling import TOTAL, Proposal, SampledDraft, Sampling
from runtime.wire import synera_pb2 as pb


def sampling_message(sampling: Sampling | None) -> pb.Sampling | None:
    """Return the message of settings; None, which sets no field, for greedy decoding."""
    if sampling is None:
        return None
    return pb.Sampling(temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, seed=sampling.seed)


def proposals_message(sampled: SampledDraft | None) -> pb.Proposals | None:
    """Return the message of a draft's proposals; None for greedy decoding."""
    if sampled is None:
        return None
    return pb.Proposals(
        sizes=[len(each.ids) for each in sampled.proposals],
        ids=[token for each in sampled.proposals for token in each.ids],
        weights=[weight for each in sampled.proposals for weight in each.weights[1:]],
    )


def read_sampling(request: pb.VerifyRequest | pb.GenerateRequest | pb.SketchRequest) -> Sampling | None:
    """Read the settings of a request; None where it asks for greedy decoding.

    Raises:
        SettingError: a value is outside its range.
    """
    if not request.HasField("sampling"):
        return None
    asked = request.sampling
    return Sampling(asked.temperature, asked.top_p, asked.top_k, asked.seed)


def read_sampled(request: pb.VerifyRequest) -> SampledDraft | None:
    """Read how the draft of a request was sampled; None where it asks for greedy decoding.

    Raises:
        SettingError: the settings or the proposals make no sense, or do not fit the draft.
    """
    sampling, told = read_sampling(request), request.proposals
    if sampling is None:
        if request.HasField("proposals"):
            raise SettingError("proposals without sampling make no sense; send the settings as well")
        return None
    if len(told.sizes) != len(request.draft):
        raise SettingError(f"{len(told.sizes)} proposals for a draft of {len(request.draft)} tokens; each token has one")
    if sum(told.sizes) != len(told.ids) or len(told.weights) != len(told.ids) - len(told.sizes) or 0 in told.sizes:
        raise SettingError(
            f"proposals of {sum(told.sizes)} token ids come with {len(told.ids)} ids and {len(told.weights)} weights; "
            "each has at least one id, and a weight for each after its first"
        )
    ids, weights, proposals = list(told.ids), list(told.weights), list[Proposal]()
    for size in told.sizes:
        rest = weights[: size - 1]
        proposals.append(Proposal(tuple(ids[:size]), (TOTAL - sum(rest), *rest)))
        del ids[:size], weights[: size - 1]
    sampled = SampledDraft(sampling, tuple(proposals))
    sampled.require_fit(request.draft)
    return sampled
