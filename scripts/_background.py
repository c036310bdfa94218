"""Clients that drive a real verifier after a workload while a probe sends checks; what the probe met is written down.

What does not live here: the verifier's process (_verifier.py) and what is made of the checks (synera_env/load_fidelity.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from runtime.client import CloudClient
from runtime.errors import CloudBusyError
from runtime.sampling import Sampling
from runtime.wire import synera_pb2 as pb
from synera_env.load_fidelity import ObservedCheck
from traces.workload.shared_cloud import Met
from traces.workload.trace import Workload

_ANY_TOKEN = Sampling(temperature=100.0)
"""Draws nearly evenly from the vocabulary, so that an answer seldom ends before it is as long as asked for."""
_HISTORY, _DRAFT = 6, 4
"""Tokens of a probe's session and of each of its drafts."""
_THINK_SECONDS = 0.12
"""Mean time between the end of a probe's check and its next; about what a phone drafts four tokens in."""


@dataclass(frozen=True)
class Driven:
    """What came of a workload."""

    workload: Workload
    """As it was in fact: with the tokens that answers had."""
    checks: tuple[ObservedCheck, ...]
    refused: int
    """Requests that the verifier turned away."""
    late_seconds: float
    """95th percentile of how late requests were sent."""


def drive(
    client: CloudClient, workload: Workload, *, vocab: int, tokenizer_hash: str, seed: int = 0, second: Callable[[], object]
) -> Driven:
    """Send a workload's requests at their times, and a probe's checks beside them, until the last has been sent.

    Args:
        client: of an idle verifier.
        workload: lengths must fit its context.
        vocab: of its tokenizer.
        tokenizer_hash: likewise.
        seed: draws tokens, and the probe's times.
        second: called about once a second.

    Raises:
        CloudError: the verifier does not answer.
    """
    rng = np.random.default_rng([seed, 5])
    prompts = [rng.integers(3, vocab, max(1, int(n))).tolist() for n in workload.context_tokens]
    began = time.monotonic() + 0.2

    def ask(number: int) -> tuple[int, float]:
        """Send a request when its time has come; the tokens it was answered with (-1: turned away) and how late it was."""
        wait = began + float(workload.arrival_seconds[number]) - time.monotonic()
        time.sleep(max(0.0, wait))
        late = time.monotonic() - began - float(workload.arrival_seconds[number])
        most = max(1, int(workload.generated_tokens[number]))
        try:
            return sum(1 for _ in client.generate(prompts[number], most, replace(_ANY_TOKEN, seed=number))), late
        except CloudBusyError:
            return -1, late

    ends = began + workload.seconds
    # One thread asks and waits for each request that may be under way at a time, and one for the next.
    with ThreadPoolExecutor(min(len(workload), 160), thread_name_prefix="background") as pool:
        asked = [pool.submit(ask, number) for number in range(len(workload))]
        checks = _probe(client, tokenizer_hash, vocab, began, ends, rng, second)
    tokens, late = (np.array(series) for series in zip(*(each.result() for each in asked), strict=True))
    # One that was turned away is one that the model may take: its length is as it was asked for.
    observed = replace(workload, generated_tokens=np.where(tokens < 0, workload.generated_tokens, tokens))
    return Driven(observed, tuple(checks), int((tokens < 0).sum()), float(np.quantile(late, 0.95)))


def _probe(
    client: CloudClient,
    tokenizer_hash: str,
    vocab: int,
    began: float,
    ends: float,
    rng: np.random.Generator,
    second: Callable[[], object],
) -> list[ObservedCheck]:
    """Send checks one after the other; each rolls back what the one before it left, so that all cost alike."""
    session, checks, said = client.open(tokenizer_hash).session_id, list[ObservedCheck](), began
    history = rng.integers(3, vocab, _HISTORY).tolist()
    for seq in range(1, 10**9):
        time.sleep(max(0.0, began - time.monotonic()) + float(rng.exponential(_THINK_SECONDS)))
        prefix = 0 if seq == 1 else _HISTORY - 1
        draft = rng.integers(3, vocab, _DRAFT).tolist()
        request = pb.VerifyRequest(session_id=session, seq=seq, prefix_length=prefix, context=history[prefix:], draft=draft)
        sent = time.monotonic()
        if sent >= ends:
            break
        answer = client.verify(request)
        queue, compute, share = answer.queue_ms / 1e3, answer.compute_ms / 1e3, answer.compute_share_ms / 1e3
        # The network's time is taken to be the same both ways.
        network = max(0.0, time.monotonic() - sent - queue - compute)
        met = Met(queue, compute, share, answer.load)
        checks.append(ObservedCheck(sent - began + network / 2, answer.processed_tokens, met))
        if time.monotonic() - said > 1.0:
            said += 1.0
            second()
    client.close_session(session)
    return checks
