"""What sampling costs on the wire and in acceptance: bytes of a check, and what rounding and cutting the proposals loses.

Every chunk is checked. Bytes of a draft are those that its request has beyond one that asks for the next token only; acceptance
is worked out place by place along the sampled answers, as the sum of min(p, q), and not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.device import Connection, Device
from runtime.model.decoder import Decoder
from runtime.model.distributions import propose, truncated
from runtime.model.loading import load_decoder
from runtime.sampling import MOST_IDS, Sampling
from runtime.synera.chunk import ChunkRecord
from runtime.synera.held import HeldHistory
from runtime.synera.knobs import Knobs
from scripts.benchmarks.harness import Figure, Setting
from traces import bundled
from traces.profile import DeviceProfile
from traces.tasks import tinyworld
from traces.tasks.splits import bundled_prompts

_ALWAYS = Knobs(confidence_threshold=1.0, offload_budget=1.0)
_SETTINGS: dict[str, Sampling | None] = {
    "greedy": None,
    "temperature 0.7, top-p 0.9": Sampling(0.7, top_p=0.9),
    "temperature 1": Sampling(1.0),
    "temperature 1.5": Sampling(1.5),
}
_MOST_BYTES = {True: 8.0, False: 128.0}  # a token: greedily, sampled
_MOST_LOST = 1.0  # percent of the acceptance


def measure(setting: Setting) -> list[Figure]:
    """Measure every figure of the area, on as many test prompts as there are repetitions, or up to three more.

    Raises:
        CheckpointError: the pair's folder has no usable slm/ or llm/.
    """
    torch.set_num_threads(setting.threads)
    prompts = [p.text for p in bundled_prompts("test", per_kind=-(-setting.repetitions // len(tinyworld.KINDS)))]
    device = Device.load(
        setting.pair / "slm", DeviceProfile.load(bundled.profile("phone")), max_new_tokens=bundled.MAX_NEW_TOKENS
    )
    llm = load_decoder(setting.pair / "llm")
    with ExitStack() as stack:
        port = stack.enter_context(running_server(ServerConfig(setting.pair / "llm", threads=setting.threads)))
        client = stack.enter_context(CloudClient(f"127.0.0.1:{port}"))
        connection = stack.enter_context(Connection(device, client))
        return [
            figure
            for name, sampling in _SETTINGS.items()
            for figure in _figures(
                name, sampling, [_answer(connection, text, n, sampling) for n, text in enumerate(prompts)], llm
            )
        ]


@dataclass(frozen=True)
class _Answer:
    """A live answer of which every chunk was checked."""

    slm: Decoder
    prompt: Sequence[int]
    records: Sequence[ChunkRecord]
    tokens: Sequence[int]


def _answer(connection: Connection, text: str, number: int, sampling: Sampling | None) -> _Answer:
    prompt = connection.encode(text)
    with connection.open(sampling=sampling and sampling.of_answer(number)) as session:
        session.begin(prompt, _ALWAYS)
        while not session.advance(_ALWAYS).done:
            pass
        return _Answer(connection.device.slm, prompt, session.records, session.answer)


def _figures(name: str, sampling: Sampling | None, answers: Sequence[_Answer], llm: Decoder) -> Iterator[Figure]:
    records = [record for answer in answers for record in answer.records]
    judged, accepted = sum(record.judged for record in records), sum(record.accepted for record in records)
    sent, bare = sum(record.cost.uplink_bytes for record in records), sum(_without_drafts(answer) for answer in answers)
    peer = f"{len(records)} checks of {judged} draft tokens, {accepted} accepted; {bare / len(records):.0f} B a check without its draft"
    yield Figure(f"{name}: bytes sent a draft token", (sent - bare) / judged, "B", _MOST_BYTES[sampling is None], "lower", peer)
    if sampling is not None:
        places = torch.cat([_acceptance(answer, llm, sampling) for answer in answers])
        whole, proposed = places.mean(0).tolist()
        peer = f"by the whole q {100 * whole:.2f} % of the tokens would stand, by {MOST_IDS} rounded ids {100 * proposed:.2f} %"
        yield Figure(f"{name}: acceptance lost", 100 * (1 - proposed / whole), "%", _MOST_LOST, "lower", peer)


def _without_drafts(answer: _Answer) -> int:
    """Bytes on the link of the same requests, had they asked greedily and for the next token only."""
    held, history, bytes_sent = HeldHistory(), list(answer.prompt), 0
    for record in answer.records:
        bytes_sent += held.request(history, []).link_bytes
        if (verdict := record.verdict) is not None:
            held.settled(history, record.draft.ids, verdict.accepted, verdict.next_token)
        history += record.committed
    return bytes_sent


def _acceptance(answer: _Answer, llm: Decoder, sampling: Sampling) -> Tensor:
    """Sum of min(p, q) at each place of an answer, by the SLM's whole distribution and by its proposal; [tokens, 2]."""
    ids, places = torch.tensor([*answer.prompt, *answer.tokens[:-1]]), slice(len(answer.prompt) - 1, None)
    small, large = (
        model.logits(model.run(model.embed(ids), torch.arange(len(ids)), model.new_cache()))[places]
        for model in (answer.slm, llm)
    )
    p, q = truncated(large, sampling), truncated(small, sampling)
    proposed = torch.zeros_like(q)
    for row, proposal in zip(proposed, (propose(logits[None], sampling) for logits in small), strict=True):
        row[list(proposal.ids)] = torch.tensor(proposal.probabilities, dtype=torch.float64)
    return torch.stack([torch.minimum(p, each).sum(-1) for each in (q, proposed)], -1)
