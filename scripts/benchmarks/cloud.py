"""The verifier on loopback: what a check costs beyond the bare forward, and what concurrent sessions gain.

Server and clients share one process (and its interpreter lock), so both figures are lower bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from cloud.config import ServerConfig
from cloud.engine.embedded.forward import TorchForward, Work
from cloud.engine.embedded.kv_pool import blocks_for
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.model.loading import load_decoder
from runtime.model.tokenizer import tokenizer_hash
from runtime.wire import synera_pb2 as pb
from scripts.benchmarks.harness import Figure, Setting, compare, speedup

_DRAFT = 4  # tokens in a chunk
_SESSIONS = 8
_CHECKS = 4  # of each session in one timing


def measure(setting: Setting) -> list[Figure]:
    """Measure every figure of the area.

    Raises:
        CheckpointError: the pair's folder has no usable llm/.
    """
    torch.set_num_threads(setting.threads)
    with _serving(setting) as client:
        return [_round_trip(client, setting), _concurrency(client, setting)]


class _Session:
    """A session that has one and the same chunk checked again and again, after a prompt of `context` tokens."""

    def __init__(self, client: CloudClient, setting: Setting, context: int) -> None:
        self._client, self._seq, self._context = client, 0, context
        self._id = client.open(tokenizer_hash(setting.pair / "llm")).session_id
        self.prompt = [5 + i % 40 for i in range(context)]
        self.draft = [7] * _DRAFT
        self._verify(prefix_length=0, context=self.prompt)

    def check(self) -> None:
        """Have the chunk checked; the cloud forgets what came of it the time before."""
        self._verify(prefix_length=self._context, context=[])

    def close(self) -> None:
        """Release the session."""
        self._client.close_session(self._id)

    def _verify(self, prefix_length: int, context: list[int]) -> None:
        self._seq += 1
        request = pb.VerifyRequest(
            session_id=self._id, seq=self._seq, prefix_length=prefix_length, context=context, draft=self.draft
        )
        self._client.verify(request)


def _context(client: CloudClient) -> int:
    """Prompt length: as the bundled tasks' longest answers, or what a small model takes."""
    return min(160, client.model_info().context_tokens - _DRAFT - 1)


@contextmanager
def _serving(setting: Setting) -> Iterator[CloudClient]:
    config = ServerConfig(setting.pair / "llm", threads=setting.threads)
    with running_server(config) as port, CloudClient(f"127.0.0.1:{port}") as client:
        yield client


def _round_trip(client: CloudClient, setting: Setting) -> Figure:
    session = _Session(client, setting, _context(client))
    held = len(session.prompt) - 1
    forward = TorchForward(load_decoder(setting.pair / "llm"), blocks_for(held + 1 + _DRAFT))
    blocks = range(forward.blocks)
    forward.run([Work(blocks, 0, session.prompt, 1)])

    def bare() -> None:
        # The verifier, too, reads the history's last token again: its choice is what the draft begins with.
        forward.run([Work(blocks, held, [session.prompt[-1], *session.draft], _DRAFT + 1)])

    found = compare(session.check, bare, setting.repetitions)
    session.close()
    name = f"Verify of {_DRAFT} tokens on loopback over the bare forward, LLM"
    return Figure(
        name, 1 / found.speedup, "x its time", 1.5, "lower", found.describe("the engine's forward of the same tokens")
    )


def _concurrency(client: CloudClient, setting: Setting) -> Figure:
    sessions = [_Session(client, setting, _context(client)) for _ in range(_SESSIONS)]

    def checks(session: _Session) -> None:
        for _ in range(_CHECKS):
            session.check()

    def in_turn() -> None:
        for session in sessions:
            checks(session)

    with ThreadPoolExecutor(_SESSIONS) as pool:
        figure = speedup(
            f"{_SESSIONS * _CHECKS} checks by {_SESSIONS} sessions at a time, LLM",
            lambda: list(pool.map(checks, sessions)),
            in_turn,
            "the same checks by one session after the other",
            setting,
            goal=1.2,
        )
    for session in sessions:
        session.close()
    return figure
