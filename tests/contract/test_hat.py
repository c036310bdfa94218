"""HAT live and in replay: the same knobs give the same drafts, commits and bytes, on a real model and over a real server."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.hat.device import HatConnection
from runtime.hat.knobs import Knobs
from runtime.hat.medusa import MedusaHeads
from runtime.hat.session import Session
from runtime.hat.values import HatRecord
from runtime.model.split import Split
from synera_env.fidelity import same_tokens
from synera_env.hat.replay import HatReplayEnv
from synera_env.radio import Outages, Radio
from tests.runtime.hat.test_session import any_knobs
from tests.support.hat import SplitWorld, prompts, save_adapter, save_heads
from tests.support.recorded import GPU, PHONE
from traces.hat.graph import HatGraphs
from traces.links.generators import constant_link


@pytest.fixture(scope="module", params=["1", "2:1", "1 with heads", "2:1 with heads"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_deep: Path) -> SplitWorld:
    split, _, heads = request.param.partition(" with ")
    return SplitWorld(tmp_path_factory.mktemp("hat"), tiny_deep, Split.parse(split), save_heads if heads else save_adapter)


@pytest.fixture(scope="module")
def graphs(world: SplitWorld) -> HatGraphs:
    return world.graphs(prompts())


def answered(session: Session, prompt: Sequence[int], knobs: Sequence[Knobs]) -> list[HatRecord]:
    """An answer; the last knobs repeat."""
    session.begin(prompt, knobs[0])
    turn = 0
    while not session.advance(knobs[min(turn, len(knobs) - 1)]).done:
        turn += 1
    return list(session.records)


def done(records: Sequence[HatRecord]) -> list[tuple[object, ...]]:
    """What was done, whatever it took."""
    return [(r.prompt_rows, r.drafted, r.committed, r.judged, r.accepted, r.error) for r in records]


@settings(max_examples=40)
@given(
    knobs=st.lists(any_knobs(), min_size=1, max_size=6),
    number=st.integers(0, 7),
    polls=st.sampled_from([0, 2, 20]),
    rtt=st.sampled_from([0.0, 30.0, 300.0]),
)
def test_a_replay_drafts_and_commits_what_the_models_do(
    world: SplitWorld, graphs: HatGraphs, knobs: list[Knobs], number: int, polls: int, rtt: float
) -> None:
    if isinstance(
        world.device.adapter, MedusaHeads
    ):  # they read what was rounded to travel: in fp32 alone that is the same to the end
        knobs = [replace(each, precision=0) for each in knobs]
    live = world.session(polls=polls)
    records = answered(live, world.device.encode(prompts()[number]), knobs)
    env = HatReplayEnv(graphs, [constant_link(rtt)], PHONE, GPU, outages=Outages.never())
    episode = env.episode(seed=1, options={"prompt": number})
    replayed = answered(episode.session, episode.prompt_tokens, knobs)
    assert done(replayed) == done(records)
    for one, other in zip(records, replayed, strict=True):
        assert [t.candidates for t in one.draft] == [t.candidates for t in other.draft]
        assert np.allclose([t.confidence for t in one.draft], [t.confidence for t in other.draft], atol=1e-4)
    assert episode.score() == graphs.graph(number, knobs[0].precision).score


@pytest.fixture(scope="module")
def connection(world: SplitWorld) -> Iterator[HatConnection]:
    with (
        running_server(ServerConfig(model=world.model, split=world.split)) as port,
        CloudClient(f"127.0.0.1:{port}") as client,
    ):
        yield HatConnection(world.device, client)


def test_live_answers_are_the_models_own_and_the_replay_of_their_knobs(
    world: SplitWorld, graphs: HatGraphs, connection: HatConnection
) -> None:
    rng = random.Random(7)
    env = HatReplayEnv(graphs, [constant_link(20.0)], PHONE, GPU, outages=Outages.never())
    for number, text in enumerate(prompts()):
        knobs = [Knobs(rng.uniform(3, 6), rng.choice([0.0, 0.05, 0.2]), rng.randint(0, 5), rng.randint(0, 4)) for _ in range(5)]
        link = rng.choice([None, Radio(constant_link(rtt_ms=rng.choice([0.0, 10.0]), uplink_mbps=4.0, downlink_mbps=8.0))])
        prompt = world.device.encode(text)
        with connection.open(link) as session:
            records = answered(session, prompt, knobs)
        assert session.answer == world.greedy(prompt), number
        episode = env.episode(seed=1, options={"prompt": number})
        replayed = answered(episode.session, episode.prompt_tokens, knobs)
        assert done(replayed) == done(records)
        for name in ("uplink_bytes", "downlink_bytes"):
            one, other = (sum(getattr(r.cost, name) for r in found) for found in (records, replayed))
            assert one == other, name
        assert same_tokens(records, env, number).identical
