"""The contract under loss: what a cut-off link or a slow cloud costs is the same live and in replay, and neither ever loses
the answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agents.agreement import agreement
from agents.evaluation import answer, make_plan
from agents.rules import FixedRule, RandomRule
from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.device import Connection
from runtime.synera.chunk import ChunkRecord
from runtime.synera.knobs import Knobs
from runtime.synera.lens import Lens
from runtime.synera.session import Session
from synera_env import synera_schema
from synera_env.fidelity import same_tokens
from synera_env.radio import Outages, Radio, Windows
from synera_env.synera.live import SyneraLiveEnv
from synera_env.synera.replay import ReplayEpisode
from synera_env.synera.schema import ALWAYS
from tests.support.recorded import FREE_CLOUD, Recorded, recorded
from traces.links.generators import constant_link
from traces.profile import CloudProfile, DeviceProfile
from traces.workload.shared_cloud import Met

SCHEMA = synera_schema(exits=2)
FAST_LINK = constant_link(rtt_ms=4.0, uplink_mbps=50.0, downlink_mbps=50.0)
SLOW = DeviceProfile("slow", "made up", call_ms=350, layer_ms=0, position_ms=0, head_ms=0, busy_watts=1)
"""So slow that it does not matter which millisecond a check is sent in."""
ONE = Knobs(confidence_threshold=1.0, offload_budget=1.0, draft_length=1)
CUT_OFF_OFTEN = Outages(every_seconds=0.3, mean_seconds=0.2, loss_rate=0.05)


@dataclass(frozen=True)
class Scenario:
    """Outages, how busy others keep the cloud, and what must become of each check: answered, lost on the way, refused as the cloud
    is left alone, or refused while it is probed in the background.
    """

    windows: Windows
    checks: str
    cloud: CloudProfile = FREE_CLOUD
    seed: int = 0
    """Of how busy the cloud is at each check."""


STALLS = CloudProfile(
    "stalls", "made up", forward_ms=0, token_ms=0, queue_ms_quantiles=(*[0.0] * 8, *[850.0] * 4, *[5000.0] * 4)
)
"""Half of the checks are quick, a quarter is answered late, and a quarter later than anyone waits."""
SCENARIOS = {
    # Open at 0 and 0.5, given up at 1, left alone to 1.5; checks at 0.35, 1.35, 1.7, ...: the third one probes
    "at the start": Scenario(((0.0, 1.3),), "rrpaa"),
    # the third at 1.06 meets it, its repeat at 1.56 does not
    "a blip": Scenario(((0.9, 1.3),), "aaaa"),
    # the third is given up at 2.06; left alone to 2.56: the fourth is at 2.41, the fifth at 2.76
    "for a while": Scenario(((0.9, 2.3),), "aalrpaa"),
    # what probes at 2.76 is lost too, which is known at 3.76
    "for long": Scenario(((0.9, 5.3),), "aalrppp"),
    # the fourth does not come back in time; the last two are slow: their repeats find them running
    "a cloud that stalls": Scenario((), "aaalrpaa", STALLS, seed=41),
}


@dataclass(frozen=True)
class InOrder:
    """Draws one number after the other, as the paced cloud does."""

    cloud: CloudProfile
    rng: random.Random

    def meets(self, check: int, at_seconds: float, tokens: int) -> Met:
        uniform, compute = self.rng.random(), self.cloud.forward_seconds(tokens)
        return Met(self.cloud.queue_seconds(uniform), compute, compute, 1 + self.cloud.background_load(uniform))


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture(scope="module")
def cloud(tiny_llm: Path) -> Iterator[CloudClient]:
    with running_server(ServerConfig(model=tiny_llm)) as port, CloudClient(f"127.0.0.1:{port}") as client:
        yield client


def take(session: Session, prompt: tuple[int, ...], chunks: int) -> list[ChunkRecord]:
    session.begin(prompt, ONE)
    return [session.advance(ONE).record for _ in range(chunks)]


def became(record: ChunkRecord) -> str:
    if record.error is None:
        return "a"
    return "r" if "next try in" in record.error else "p" if "being tried again" in record.error else "l"


def in_time(live: list[ChunkRecord], told: list[ChunkRecord]) -> bool:
    return all(abs(one.committed_at - other.committed_at) < 0.1 for one, other in zip(live, told, strict=True))


def replayed(pair: Recorded, prompt: int, scenario: Scenario) -> list[ChunkRecord]:
    lens = Lens.from_tensors(pair.graphs.lens_tensors)
    radio = Radio(FAST_LINK, 0.0, scenario.windows)
    cloud = InOrder(scenario.cloud, random.Random(scenario.seed))
    episode = ReplayEpisode(pair.graphs, prompt, radio, SLOW, cloud, lens)
    return take(episode.session, episode.prompt_tokens, len(scenario.checks))


def long_prompt(pair: Recorded, scenario: Scenario) -> int:
    """A prompt whose answer is long enough for a scenario."""
    for prompt in range(len(pair.graphs)):
        try:
            replayed(pair, prompt, scenario)
        except RuntimeError:  # the answer was over before
            continue
        return prompt
    raise AssertionError("no answer is long enough")


def test_the_same_outages_and_stalls_cost_the_same_live_and_in_replay(pair: Recorded, tiny_llm: Path) -> None:
    """Chunk by chunk: what is lost, what stands, what travelled (repeats, too), what the cloud had to run."""
    device = pair.device(paced=True, profile=SLOW)
    prompts = {name: long_prompt(pair, scenario) for name, scenario in SCENARIOS.items()}

    def live(name: str) -> list[ChunkRecord]:
        scenario = SCENARIOS[name]
        config = ServerConfig(model=tiny_llm, pace=scenario.cloud, pace_seed=scenario.seed, grace_seconds=0)
        with (
            running_server(config) as port,
            CloudClient(f"127.0.0.1:{port}") as client,
            Connection(device, client) as connection,
        ):
            tokens = connection.encode(pair.graphs.meta.prompts[prompts[name]])
            with connection.open(Radio(FAST_LINK, 0.0, scenario.windows)) as session:
                return take(session, tokens, len(scenario.checks))

    tolds = {name: replayed(pair, prompts[name], scenario) for name, scenario in SCENARIOS.items()}
    for _ in range(5):  # a machine that is held up for a moment sends a check in another window
        with ThreadPoolExecutor(len(SCENARIOS)) as side_by_side:  # they mostly sleep
            lived = dict(zip(SCENARIOS, side_by_side.map(live, SCENARIOS), strict=True))
        if all(in_time(lived[name], tolds[name]) for name in SCENARIOS):
            break
    for name, scenario in SCENARIOS.items():
        told = tolds[name]
        for world, records in (("live", lived[name]), ("replay", told)):
            assert "".join(map(became, records)) == scenario.checks, f"{name}, {world}"
        for one, other in zip(lived[name], told, strict=True):
            assert (one.draft.ids, one.committed, one.accepted) == (other.draft.ids, other.committed, other.accepted), name
            assert (one.cost.uplink_bytes, one.cost.downlink_bytes) == (other.cost.uplink_bytes, other.cost.downlink_bytes), (
                name
            )
            assert one.cost.cloud_tokens == other.cost.cloud_tokens, name


def test_live_answers_with_losses_are_reproduced_token_by_token(pair: Recorded, cloud: CloudClient) -> None:
    replay, lost = pair.env(), 0
    for prompt, rule in ((p, r) for p in range(3) for r in (FixedRule(ALWAYS, SCHEMA), RandomRule(SCHEMA))):
        env = SyneraLiveEnv(cloud, pair.device(), pair.prompts, pair.score, [FAST_LINK], outages=CUT_OFF_OFTEN)
        try:
            live = answer(env, rule, make_plan(env, 6, seed=prompt)[prompt])
        finally:
            env.close()
        check = same_tokens(live.records, replay, live.prompt)
        assert check.identical, check.first_difference
        assert live.metrics is not None
        lost += live.metrics.lost_chunks
    assert lost > 3


def test_an_answer_that_outlives_its_cloud_is_reproduced_too(pair: Recorded, tiny_llm: Path) -> None:
    replay = pair.env()
    plan = [replace(planned, link=0, link_offset_seconds=0.0) for planned in make_plan(replay, 4)]
    rule = FixedRule(ALWAYS, SCHEMA)
    with ExitStack() as served:
        port = served.enter_context(running_server(ServerConfig(model=tiny_llm, grace_seconds=0)))
        env = SyneraLiveEnv(f"127.0.0.1:{port}", pair.device(), pair.prompts, pair.score, emulate_link=False)
        outcomes = [answer(env, rule, planned) for planned in plan[:2]]
        served.close()
        outcomes += [answer(env, rule, planned) for planned in plan[2:]]
        env.close()
    assert [bool(o.metrics and o.metrics.lost_chunks) for o in outcomes] == [False, False, True, True]
    told = [answer(replay, rule, planned) for planned in plan]
    found = agreement(replay, outcomes, told)
    assert (found.tokens_identical, found.differences) == (1.0, ())
    assert found.same_tokens < 1.0, "deciding by itself, the replay loses nothing"


def test_the_outages_of_a_seed_are_the_same_in_both_worlds(
    pair: Recorded, cloud: CloudClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = SyneraLiveEnv(cloud, pair.device(), pair.prompts, pair.score, [FAST_LINK], outages=CUT_OFF_OFTEN)
    radios: dict[type, list[Radio]] = {}
    for env in (live, pair.env((FAST_LINK,), outages=CUT_OFF_OFTEN)):
        seen = radios.setdefault(type(env), [])
        begin = env._begin
        monkeypatch.setattr(env, "_begin", lambda start, begin=begin, seen=seen: (seen.append(start.radio), begin(start))[1])
        for seed in range(5):
            env.episode(seed=seed)
        env.close()
    one, other = radios.values()
    assert one == other
    assert all(len(radio.outages) > 10 for radio in one)
    assert len({radio.outages for radio in one}) == 5
