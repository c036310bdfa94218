"""Sampled answers: the same request and seed give the same tokens, whatever is drafted ahead, whoever else is served, and when."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.clock import SimulatedClock
from runtime.device import Connection
from runtime.errors import SettingError
from runtime.model.distributions import draw, truncated
from runtime.model.loading import load_decoder
from runtime.sampling import Draws, Purpose, SampledDraft, Sampling
from runtime.session import Limits
from runtime.synera.ahead import Guess, likeliest
from runtime.synera.chunk import ChunkRecord, Draft, DraftToken
from runtime.synera.drafter import ModelDrafter
from runtime.synera.knobs import Knobs
from runtime.synera.session import Session
from runtime.wire.sizes import on_the_link, verify_request_bytes
from synera_env.fidelity import same_tokens
from synera_env.radio import Radio
from synera_env.synera.live import SyneraLiveEnv
from synera_env.synera.schema import ALWAYS
from tests.contract.test_stall_free import all_accepted, run, waiting, what_was_done
from tests.support.chance import EOS, LENS, VOCAB, KeptDrafter, KeptVerifier, Pair, checked
from tests.support.checkpoints import LayerCosts
from tests.support.language import Energy, any_knobs
from tests.support.recorded import Recorded, recorded
from traces.links.generators import constant_link

SAMPLING = Sampling(0.8, top_p=0.95, top_k=40, seed=11)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("chance"))


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture(scope="module")
def cloud(tiny_llm: Path) -> Iterator[CloudClient]:
    with running_server(ServerConfig(model=tiny_llm)) as port, CloudClient(f"127.0.0.1:{port}") as client:
        yield client


@pytest.fixture(scope="module")
def connection(pair: Recorded, cloud: CloudClient) -> Iterator[Connection]:
    with Connection(pair.device(), cloud) as connection:
        yield connection


class Unsteady(KeptVerifier):
    """Its verdict may come at any moment."""

    def __init__(self, pair: Pair, moments: Sequence[bool]) -> None:
        super().__init__(pair)
        self._moments = list(moments)

    def ready(self) -> bool:
        return bool(self._moments) and self._moments.pop(0)


def any_guess(rng: random.Random, draft: Draft) -> Guess:
    """Also what cannot be, such as that a token is replaced by itself."""
    accepted = rng.randint(0, len(draft.tokens))
    return Guess(accepted, rng.randrange(VOCAB) if accepted < len(draft.tokens) else None, rng.random())


asking = st.builds(
    checked,
    exit_index=st.integers(-1, 1),
    exit_margin=st.sampled_from([0.0, 0.1, 0.3, 1.0]),
    draft_length=st.integers(1, 5),
    draft_ahead=st.just(0.0),
)
"""Mostly there is a check in flight to draft on from."""


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_tokens_do_not_depend_on_what_is_drafted_ahead_nor_on_when_verdicts_come(data: st.DataObject, models: Pair) -> None:
    prompt = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4))
    knobs = [
        replace(k, exit_index=min(k.exit_index, 1))
        for k in data.draw(st.lists(asking | asking | any_knobs, min_size=1, max_size=5))
    ]
    rule, seed = data.draw(st.none() | st.integers(0, 2**32)), data.draw(st.integers(0, 2**64 - 1))
    asked = data.draw(st.sampled_from([Sampling(1.0), Sampling(0.6, top_p=0.9), Sampling(1.5, top_k=4)]))

    def answered(knobs: Sequence[Knobs], moments: Sequence[bool]) -> list[ChunkRecord]:
        clock = SimulatedClock()
        drafter, verifier = KeptDrafter(models.slm, clock, models.asked), Unsteady(models, moments)
        rng = random.Random(rule)
        guess = likeliest if rule is None else lambda draft, agreement: any_guess(rng, draft)
        limits = Limits(12, frozenset({EOS}), 96)
        return run(Session(drafter, verifier, clock, Energy(), LENS, limits, guess, replace(asked, seed=seed)), prompt, knobs)

    ahead, stop = answered(knobs, data.draw(st.lists(st.booleans(), max_size=4))), answered(waiting(knobs), [])
    assert what_was_done(ahead) == what_was_done(stop)
    assert all(r.sampled for r in stop)


def test_the_device_s_own_draws_are_the_proposal_s_by_the_number_of_the_place(models: Pair) -> None:
    drafter = KeptDrafter(models.slm, SimulatedClock(), models.asked)
    plain = ModelDrafter(models.slm, LENS, SimulatedClock(), LayerCosts())
    plain.begin((1, 4, 3))
    greedy, seen = plain.next(-1, 1.0), set()
    assert greedy.proposal is None
    for seed in range(50):
        drafter.begin((1, 4), replace(SAMPLING, seed=seed))
        drafter.push(3)
        said = drafter.next(-1, 1.0)
        assert said.proposal is not None
        assert said.token == said.proposal.draw(Draws(seed, (1, 4, 3)).uniform(Purpose.TOKEN))
        seen.add(said.token)
        assert figures(said) == figures(greedy)
    assert len(seen) > 1


def figures(token: DraftToken) -> tuple[float, ...]:
    """What a device feels about a token: of the plain distribution, however the token was chosen."""
    return token.confidence, token.margin, token.entropy, token.runner_up


# ---------------------------------------------------------------- live


def answer(
    connection: Connection, text: str, sampling: Sampling | None, knobs: Knobs, link: Radio | None = None
) -> list[ChunkRecord]:
    with connection.open(link, sampling) as session:
        return run(session, connection.encode(text), [knobs])


def test_live_answers_are_the_same_with_stall_free_drafting_on_and_off(pair: Recorded, connection: Connection) -> None:
    hits = misses = 0
    for number, prompt in enumerate(pair.prompts):
        sampling, rule = SAMPLING.of_answer(number), (likeliest, all_accepted)[number % 2]
        knobs = checked(draft_length=1 + number % 4, exit_index=-(number % 2), draft_ahead=0.0)
        with connection.open(Radio(constant_link(rtt_ms=30.0)), sampling) as session:
            session._guess = rule
            ahead = run(session, connection.encode(prompt.text), [knobs])
        stop = answer(connection, prompt.text, sampling, replace(knobs, draft_ahead=1.0))
        assert what_was_done(ahead) == what_was_done(stop)
        guesses = [r.ahead for r in ahead if r.ahead]
        hits, misses = hits + sum(g.hit for g in guesses), misses + sum(not g.hit for g in guesses)
    assert hits >= 1
    assert misses >= 1


def test_devices_do_not_disturb_each_other_and_a_seed_makes_the_answer(pair: Recorded, cloud: CloudClient) -> None:
    texts = [p.text for p in pair.prompts[:3]]

    def answers(seed: int) -> list[tuple[int, ...]]:
        with Connection(pair.device(), cloud) as own:
            found = [answer(own, text, replace(SAMPLING, seed=seed), checked(draft_length=3)) for text in texts]
        return [tuple(token for record in records for token in record.committed) for records in found]

    alone = answers(1)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(answers, [1, 1, 2, 1]))
    assert [alone] * 3 == [together[0], together[1], together[3]]
    assert together[2] != alone


def test_bytes_on_the_link_are_those_of_the_proposals(pair: Recorded, connection: Connection) -> None:
    text = pair.prompts[0].text
    held, prompt = 0, list(connection.encode(text))
    for seq, record in enumerate(answer(connection, text, SAMPLING, checked(draft_length=3)), 1):
        sampled = SampledDraft(SAMPLING, record.draft.proposals)
        history = prompt if seq == 1 else []
        wanted = on_the_link(verify_request_bytes(held, history, record.draft.ids, seq, sampled))
        assert record.cost.uplink_bytes == wanted > on_the_link(verify_request_bytes(held, history, record.draft.ids, seq))
        held = (held or len(prompt)) + len(record.committed)
    greedy = answer(connection, text, None, checked(draft_length=3))[0]
    assert not greedy.sampled
    assert greedy.cost.uplink_bytes == on_the_link(verify_request_bytes(0, prompt, greedy.draft.ids, 1))


def test_the_llm_alone_samples_by_the_same_numbers(pair: Recorded, cloud: CloudClient, connection: Connection) -> None:
    prompt = connection.encode(pair.prompts[0].text)
    llm, tokens = load_decoder(pair.llm), list(prompt)
    while len(tokens) < len(prompt) + 8 and not {*tokens[len(prompt) :]} & {*llm.config.eos_ids}:
        hidden = llm.run(llm.embed(torch.tensor(tokens)), torch.arange(len(tokens)), llm.new_cache())
        target = truncated(llm.logits(hidden[-1:]), SAMPLING)[0]
        tokens.append(draw(target, Draws(SAMPLING.seed, tokens).uniform(Purpose.TOKEN)))
    for _ in range(2):
        assert [each.token for each in cloud.generate(prompt, 8, SAMPLING)] == tokens[len(prompt) :]
    assert [each.token for each in cloud.generate(prompt, 8)] != tokens[len(prompt) :]


# ---------------------------------------------------------------- environments


@pytest.mark.parametrize("given", [SAMPLING, {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "seed": 11}])
def test_a_live_environment_samples_by_the_seed_of_its_reset(
    given: Sampling | dict[str, float], cloud: CloudClient, pair: Recorded
) -> None:
    env = SyneraLiveEnv(cloud, pair.device(), pair.prompts, pair.score, emulate_link=False, sampling=given)
    try:

        def answers(seed: int) -> tuple[int, ...]:
            env.reset(seed=seed, options={"prompt": 0})
            while not env.advance(ALWAYS)[2]:
                pass
            return tuple(env.session.answer)

        first = answers(1)
        assert answers(1) == first
        assert len({first, *(answers(seed) for seed in range(2, 6))}) > 1
        with pytest.raises(SettingError, match="this answer was sampled and graphs are greedy"):
            same_tokens(env.session.records, pair.env(), 0)
    finally:
        env.close()


def test_a_replay_refuses_to_sample(pair: Recorded) -> None:
    episode = pair.env().episode(seed=0)
    episode.session._sampling = SAMPLING
    with pytest.raises(SettingError, match="a graph holds greedy choices alone, so a replay cannot sample"):
        episode.session.begin(episode.prompt_tokens, ALWAYS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "sampling=3 must be a Sampling or a mapping of its fields"),
        ({"heat": 1}, "sampling has no field 'heat'"),
        ({"temperature": 0}, "temperature=0 is greedy decoding"),
    ],
)
def test_a_sampling_that_does_not_fit_is_named_at_once(given: object, message: str, cloud: CloudClient, pair: Recorded) -> None:
    with pytest.raises(SettingError, match=message):
        SyneraLiveEnv(cloud, pair.device(), pair.prompts, sampling=given)  # type: ignore[arg-type]
