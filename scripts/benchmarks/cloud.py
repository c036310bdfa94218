"""The verifier on loopback: what a check costs beyond the bare forward, and what many devices at a time gain, wait and keep.

Under load the verifier is a process of its own, and so are the devices (scripts/_load.py). What does not live here: the load under
attack (tests/faults/hostile).
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from cloud.admission import Limits
from cloud.config import ServerConfig
from cloud.engine.embedded.forward import TorchForward, Work
from cloud.engine.embedded.kv_pool import blocks_for
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.errors import CloudError
from runtime.model.loading import load_decoder
from runtime.model.tokenizer import tokenizer_hash
from runtime.policies import POLICIES
from runtime.wire import synera_pb2 as pb
from scripts._load import drive
from scripts._load_plan import GRAPHS, SHORT_PROMPTS, Plan, Target, at_rate, fitted
from scripts._load_result import LoadResult
from scripts._verifier import verifier_process
from scripts.benchmarks.harness import Comparison, Figure, Setting, compare
from traces.workload.generators import Lengths, poisson

_DRAFT = 4  # tokens in a chunk
_DEVICES = 32
_CONTEXT = 100  # tokens before a draft, where a forward is timed beside that of transformers
_SECONDS = 6.0  # of each load
_MIXED_DEVICES, _MIXED_STREAMS, _MIXED_BUDGET = 16, 8, 128
_SESSIONS, _ROOM = 1000, 100  # open at a time, and how many the KV pool holds
# Of an answer whose drafts are made up, thus seldom right: about its tokens, on the mean of their log-normal lengths.
_MADE_UP_CHECKS = SHORT_PROMPTS[2] * math.exp(SHORT_PROMPTS[3] ** 2 / 2)
_RANDOM_LLAMA = {
    "hidden_size": 640,
    "intermediate_size": 1728,
    "num_hidden_layers": 12,
    "num_attention_heads": 10,
    "num_key_value_heads": 10,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}


def measure(setting: Setting) -> list[Figure]:
    """Measure every figure of the area.

    Raises:
        CheckpointError: the pair's folder has no usable llm/.
        CloudError: a verifier ended by itself.
    """
    torch.set_num_threads(setting.threads)
    figures = [_round_trip(setting)]
    with tempfile.TemporaryDirectory() as folder:
        large = _random_llama(Path(folder) / "llama", setting.pair / "llm")
        for name, model in (("LLM", setting.pair / "llm"), (large.name, large)):
            figures += [*_under_load(name, model, setting), *_beside_transformers(name, model, setting)]
    return [*figures, *_policies(setting), _sessions(setting)]


# ---------------------------------------------------------------- one device


def _round_trip(setting: Setting) -> Figure:
    """One and the same chunk checked again and again; the cloud forgets what came of it the time before."""
    model = setting.pair / "llm"
    with running_server(ServerConfig(model, threads=setting.threads)) as port, CloudClient(f"127.0.0.1:{port}") as client:
        context = min(160, client.model_info().context_tokens - _DRAFT - 1)
        prompt, draft = [5 + i % 40 for i in range(context)], [7] * _DRAFT
        session, seq = client.open(tokenizer_hash(model)).session_id, 0

        def check() -> None:
            nonlocal seq
            seq += 1
            kept = 0 if seq == 1 else context
            client.verify(pb.VerifyRequest(session_id=session, seq=seq, prefix_length=kept, context=prompt[kept:], draft=draft))

        forward = TorchForward(load_decoder(model), blocks_for(context + _DRAFT))
        blocks = range(forward.blocks)
        check()
        forward.run([Work(blocks, 0, prompt, 1)])
        # The verifier, too, reads the history's last token again: its choice is what the draft begins with.
        bare = Work(blocks, context - 1, [prompt[-1], *draft], _DRAFT + 1)
        found = compare(check, lambda: forward.run([bare]), setting.repetitions)
        client.close_session(session)
    name = f"Verify of {_DRAFT} tokens on loopback over the bare forward, LLM"
    peer = found.describe("the engine's forward of the same tokens")
    return Figure(name, 1 / found.speedup, "x its time", 1.5, "lower", peer)


# ---------------------------------------------------------------- many


def _under_load(name: str, model: Path, setting: Setting) -> Iterator[Figure]:
    """As many devices as come, beside one alone; then as many that pause until half of that load is left, and arrivals of as much."""
    with _verifier(model, setting) as target:
        one = drive(target, Plan(devices=1, seconds=_SECONDS, graphs=GRAPHS))
        assert one.latency_ms is not None
        alone = one.latency_ms
        # All read their first prompts at once, which is no part of what is measured.
        all_together = drive(target, Plan(devices=_DEVICES, warmup_seconds=_SECONDS, seconds=_SECONDS, graphs=GRAPHS))
        rate = all_together.checks_per_second / 2
        pause = max(0.0, _DEVICES / rate - 2 * alone.p50 / 1e3)  # as long as a check takes about twice as long as alone
        half = drive(
            target, Plan(devices=_DEVICES, pause_seconds=pause, warmup_seconds=_SECONDS, seconds=2 * _SECONDS, graphs=GRAPHS)
        )
        answers, seconds = rate / _checks_an_answer(all_together), 3 * _SECONDS
        arriving = at_rate(poisson(answers, seconds, lengths=Lengths(*SHORT_PROMPTS)), answers, seconds)
        bursts = drive(target, Plan(arrivals=arriving, warmup_seconds=_SECONDS, seconds=2 * _SECONDS, graphs=GRAPHS))
    gain = all_together.verified_tokens_per_second / one.verified_tokens_per_second
    wrong = _wrong(one, all_together, half, bursts)
    said = f"{all_together.verified_tokens_per_second:.0f} and {one.verified_tokens_per_second:.0f} tokens/s; {wrong}"
    yield Figure(f"verified tokens/s of {_DEVICES} devices over one's, {name}", gain, "x as many", 4.0, "higher", said)
    for what, found in ((f"{_DEVICES} devices that pause", half), ("answers that arrive at random", bursts)):
        assert found.latency_ms is not None
        said = f"{found.latency_ms.p95:.1f} ms at {found.checks_per_second:.0f} checks/s, {alone.p95:.1f} ms alone"
        said += f"; doubtful: {found.generator.warning}" if found.generator.warning else ""
        label = f"95th percentile of a check at half that load, {what}, over one device's, {name}"
        yield Figure(label, found.latency_ms.p95 / alone.p95, "x its time", 3.0, "lower", said)


def _checks_an_answer(found: LoadResult) -> float:
    answers = found.counts.get("answers", 0)
    return max(1.0, found.checks / answers) if found.checked and answers else _MADE_UP_CHECKS


def _wrong(*found: LoadResult) -> str:
    if not all(each.checked for each in found):
        return "drafts made up, nothing to be checked"
    return f"{sum(each.wrong for each in found)} wrong of {sum(each.counts['checked'] for each in found)} verdicts"


def _beside_transformers(name: str, model: Path, setting: Setting) -> Iterator[Figure]:
    """The forward of all devices' checks at one time: of one length after equal histories, which suits a padded batch best, and of
    many lengths after many, as they come.
    """
    rng = np.random.default_rng(0)
    equal = np.full(_DEVICES, _CONTEXT), np.full(_DEVICES, _DRAFT + 1)
    ragged = rng.integers(_CONTEXT // 2, 2 * _CONTEXT, _DEVICES), rng.integers(2, 2 * _DRAFT + 2, _DEVICES)
    for what, histories, tokens in (
        (f"{_DRAFT + 1} tokens after {_CONTEXT}", *equal),
        ("2 to 9 tokens after 50 to 200", *ragged),
    ):
        found = _forwards(model, histories.tolist(), tokens.tolist(), setting)
        label = f"forward of {_DEVICES} checks of {what}, {name}"
        yield Figure(label, found.speedup, "x as fast", 1.5, "higher", found.describe("transformers, padded batch"))


def _forwards(model: Path, histories: Sequence[int], tokens: Sequence[int], setting: Setting) -> Comparison:
    """Time checks of so many tokens after so long histories, beside the same by transformers: histories padded on their left, checks on
    their right, and the mask and the places told.
    """
    from transformers import AutoModelForCausalLM, DynamicCache

    theirs = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    longest, most = max(histories), max(tokens)
    room = blocks_for(longest + most)
    forward = TorchForward(load_decoder(model), len(tokens) * room)
    prompts = [[3 + (i * 7 + j) % 500 for j in range(length)] for i, length in enumerate(histories)]
    tables = [range(i * room, (i + 1) * room) for i in range(len(tokens))]
    forward.run([Work(table, 0, prompt, 0) for table, prompt in zip(tables, prompts, strict=True)])
    checks = [Work(table, at, [5] * new, new) for table, at, new in zip(tables, histories, tokens, strict=True)]

    held = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    padded = torch.tensor([[3] * (longest - len(prompt)) + prompt for prompt in prompts])
    new = torch.tensor([[1] * each + [0] * (most - each) for each in tokens])
    places = torch.tensor(histories)[:, None] + torch.arange(most)
    cache, drafts, mask = DynamicCache(), torch.full((len(tokens), most), 5), torch.cat([held, new], 1)
    with torch.inference_mode():
        theirs(padded, attention_mask=held, position_ids=(held.cumsum(1) - 1).clamp(min=0), past_key_values=cache)

        def peer() -> list[list[int]]:
            said = theirs(drafts, attention_mask=mask, position_ids=places, past_key_values=cache).logits.argmax(-1)
            cache.crop(-most)
            chosen: list[list[int]] = said.tolist()
            return chosen

        ours = [rows.choices for rows in forward.run(checks)]
        assert ours == [row[:each] for row, each in zip(peer(), tokens, strict=True)], "they are not the same work"
        return compare(lambda: forward.run(checks), peer, setting.repetitions)


def _policies(setting: Setting) -> Iterator[Figure]:
    """Checks beside others' long prompts, lengths as in Azure's conversations, under each policy."""
    model, found = setting.pair / "llm", dict[str, LoadResult]()
    for policy in POLICIES:
        options = ("--policy", policy, "--token-budget", str(_MIXED_BUDGET))
        with _verifier(model, setting, options) as target, CloudClient(target.addresses[0]) as client:
            lengths = fitted(poisson(10.0, 100.0), client.model_info().context_tokens)
            plan = Plan(
                devices=_MIXED_DEVICES, streams=_MIXED_STREAMS, stream_lengths=lengths, seconds=2 * _SECONDS, graphs=GRAPHS
            )
            found[policy] = drive(target, plan)
    waits = {policy: each.queue_ms.p95 for policy, each in found.items() if each.queue_ms is not None}
    rates = {policy: each.processed_tokens_per_second for policy, each in found.items()}
    said = ", ".join(f"{policy} {waits[policy]:.1f} ms, {rates[policy]:.0f} tokens/s" for policy in found)
    mixed = f"{_MIXED_DEVICES} devices beside {_MIXED_STREAMS} streams"
    gain = waits["fcfs"] / waits["verification_aware"]
    yield Figure(
        f"95th percentile of a check's wait, {mixed}: fcfs over verification_aware", gain, "x shorter", 2.0, "higher", said
    )
    kept = rates["verification_aware"] / rates["fcfs"]
    yield Figure(f"all tokens/s, {mixed}: verification_aware over fcfs", kept, "x as many", 0.95, "higher", said)


def _sessions(setting: Setting) -> Figure:
    """Many more open sessions than the KV pool holds; each has two checks, with all the others in between."""
    model, draft = setting.pair / "llm", [7] * _DRAFT
    prompts = [[3 + (i * 13 + j * j) % 500 for j in range(40)] for i in range(_SESSIONS)]
    limits = Limits(account_sessions=_SESSIONS, unused_seconds=600.0)
    config = ServerConfig(model, threads=setting.threads, kv_tokens=max(_ROOM * 48, 512), max_sessions=_SESSIONS, limits=limits)
    with running_server(config) as port, CloudClient(f"127.0.0.1:{port}") as client:
        ids = [client.open(tokenizer_hash(model)).session_id for _ in prompts]
        first = [
            client.verify(pb.VerifyRequest(session_id=each, seq=1, context=prompt, draft=draft))
            for each, prompt in zip(ids, prompts, strict=True)
        ]
        right = 0
        forward = TorchForward(load_decoder(model), blocks_for(64))
        for each, prompt, said in zip(ids, prompts, first, strict=True):
            held = [*prompt, *draft[: said.accepted], said.next_token]
            again = client.verify(pb.VerifyRequest(session_id=each, seq=2, prefix_length=len(held), draft=draft))
            [rows] = forward.run([Work(range(forward.blocks), 0, [*held, *draft], _DRAFT + 1)])
            stands = next((i for i, token in enumerate(draft) if token != rows.choices[i]), _DRAFT)
            right += (again.accepted, again.next_token) == (stands, rows.choices[stands])
        processed = again.processed_tokens
    said_of = f"{right} of {_SESSIONS}; the last was read again, {processed} tokens"
    name = f"right verdicts of {_SESSIONS} open sessions on a pool for {_ROOM}, LLM"
    return Figure(name, right / _SESSIONS, "of all", 1.0, "higher", said_of)


@contextmanager
def _verifier(model: Path, setting: Setting, options: tuple[str, ...] = ()) -> Iterator[Target]:
    with verifier_process(model=model, pace=None, threads=setting.threads, options=options) as verifier:
        yield Target((verifier.target,), pid=verifier.pid)
        try:
            verifier.check()
        except CloudError as ended:
            raise CloudError(f"the verifier of the bench did not live through it: {ended}") from None


def _random_llama(folder: Path, like: Path) -> Path:
    """A Llama of some 60 million random parameters, with the tokenizer of another model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig.from_pretrained(like, exit_layers=[_RANDOM_LLAMA["num_hidden_layers"]], **_RANDOM_LLAMA)
    )
    millions = sum(each.numel() for each in model.parameters()) / 1e6
    folder = folder.with_name(f"random Llama of {millions:.0f} M")
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(like / name, folder / name)
    return folder
