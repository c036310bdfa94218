"""Stall-free against stop-and-wait, on real models: tokens are equal chunk by chunk, in replay and live; times may differ."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.device import Connection
from runtime.errors import UncoveredError
from runtime.synera.ahead import Agreement, Guess, likeliest
from runtime.synera.chunk import ChunkRecord, Draft
from runtime.synera.knobs import Knobs
from runtime.synera.session import Session
from synera_env import Outages
from synera_env.radio import Radio
from synera_env.synera.replay import SyneraReplayEnv
from tests.runtime.synera.test_ahead import guessing
from tests.support.language import any_knobs
from tests.support.recorded import Recorded, recorded
from traces.links.generators import constant_link

LIVE_ANSWERS = 24


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture(scope="module")
def connection(pair: Recorded, tiny_llm: Path) -> Iterator[Connection]:
    with (
        running_server(ServerConfig(model=tiny_llm)) as port,
        CloudClient(f"127.0.0.1:{port}") as client,
        Connection(pair.device(), client) as connection,
    ):
        yield connection


def run(session: Session, prompt: Sequence[int], knobs: Sequence[Knobs]) -> list[ChunkRecord]:
    """An answer, or what of it was recorded; the last knobs repeat."""
    try:
        session.begin(prompt, knobs[0])
        turn = 0
        while session.advance(knobs[min(turn, len(knobs) - 1)]).point is not None:
            turn += 1
    except UncoveredError:
        pass
    return list(session.records)


def waiting(knobs: Sequence[Knobs]) -> list[Knobs]:
    return [replace(k, draft_ahead=1.0) for k in knobs]


def all_accepted(draft: Draft, agreement: Agreement) -> Guess:
    return Guess(len(draft.tokens), None, 1.0)


def what_was_done(records: Sequence[ChunkRecord]) -> list[tuple[object, ...]]:
    return [
        (r.draft.ids, [t.exit_index for t in r.draft.tokens], r.draft.importance, r.offloaded, r.committed) for r in records
    ]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_in_replay_tokens_do_not_depend_on_what_is_drafted_ahead(data: st.DataObject, pair: Recorded) -> None:
    env = pair.env(links=(constant_link(rtt_ms=data.draw(st.floats(0, 300))),), outages=Outages(loss_rate=0.2))
    knobs = [replace(k, exit_index=min(k.exit_index, 1)) for k in data.draw(st.lists(any_knobs, min_size=1, max_size=8))]
    options = {"prompt": data.draw(st.integers(0, env.prompt_count - 1))}
    rule, lost = data.draw(st.none() | st.integers(0, 2**32)), data.draw(st.frozensets(st.integers(1, 6), max_size=3))

    def answered(env: SyneraReplayEnv, knobs: Sequence[Knobs]) -> list[ChunkRecord]:
        episode = env.episode(seed=3, options=options, lost=lost)
        episode.session._guess = likeliest if rule is None else guessing(rule)
        return run(episode.session, episode.prompt_tokens, knobs)

    ahead, stop = answered(env, knobs), answered(env, waiting(knobs))
    assert what_was_done(ahead) == what_was_done(stop)
    assert all(r.ahead is None for r in stop)


def test_live_tokens_do_not_depend_on_what_is_drafted_ahead(pair: Recorded, connection: Connection) -> None:
    """Random prompts, knobs, round trips and rules of guessing, right and wrong; some verdicts come before the first guess."""
    rng, hits, misses = random.Random(5), 0, 0
    for number in range(LIVE_ANSWERS):
        prompt = connection.encode(rng.choice(pair.prompts).text)
        knobs = [
            Knobs(
                confidence_threshold=rng.choice([1.0, 1.0, 0.1]),
                exit_index=rng.choice([-1, 0]),
                exit_margin=rng.choice([1.0, 0.05]),
                draft_length=rng.randint(1, 5),
                draft_ahead=rng.choice([0.0, 0.2]),
                offload_budget=1.0,
            )
            for _ in range(4)
        ]
        link = Radio(constant_link(rtt_ms=rng.choice([0.0, 5.0, 40.0])))
        with connection.open(link) as session:
            session._guess = (likeliest, guessing(number), all_accepted)[number % 3]
            ahead = run(session, prompt, knobs)
        with connection.open() as session:
            stop = run(session, prompt, waiting(knobs))
        assert what_was_done(ahead) == what_was_done(stop), f"answer {number}"
        guesses = [r.ahead for r in ahead if r.ahead]
        hits, misses = hits + sum(a.hit for a in guesses), misses + sum(not a.hit for a in guesses)
    assert hits >= 2
    assert misses >= 5
