from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import SettingError
from traces.hat.run import Load
from traces.hat.simulation import Simulation
from traces.hat.testbed import ANSWER_TOKENS, FITTED, METHODS, STATE_BYTES, Testbed, mean_byte_seconds

TESTBED = Testbed.of(FITTED)
BY_KEY = {each.key: each for each in METHODS}
FEW = Load(devices=3, answers=5)


@dataclass
class Seen:
    """Everything that happened."""

    sent_: dict[int, list[tuple[float, float, int]]] = field(default_factory=lambda: defaultdict(list))
    forwards: list[tuple[float, float, int]] = field(default_factory=list)
    answers: dict[int, int] = field(default_factory=dict)

    def sent(self, device: int, begin: float, end: float, tokens: int) -> None:
        self.sent_[device].append((begin, end, tokens))

    def ran(self, begin: float, end: float, tokens: int) -> None:
        self.forwards.append((begin, end, tokens))

    def ended(self, number: int, tokens: int) -> None:
        assert number not in self.answers
        self.answers[number] = tokens


loads = st.one_of(
    st.builds(Load, devices=st.integers(1, 6), answers=st.integers(1, 4), prompt_tokens=st.none() | st.integers(1, 3968)),
    st.builds(Load, rate=st.floats(0.05, 20), answers=st.integers(1, 4), prompt_tokens=st.none() | st.integers(1, 3968)),
)


@settings(max_examples=25, deadline=None)
@given(method=st.sampled_from(METHODS), load=loads, seed=st.integers(0, 2**32 - 1))
def test_whatever_is_asked_is_answered_whole_and_in_order(method, load: Load, seed: int) -> None:  # type: ignore[no-untyped-def]
    seen = Seen()
    run = Simulation(method, TESTBED, load, seed, seen).run()
    assert set(seen.answers.values()) == {ANSWER_TOKENS}
    assert len(run.ttft_seconds) == len(run.tbt_seconds) == load.answers
    assert min(run.ttft_seconds) > 0
    assert min(run.tbt_seconds) > 0
    assert 0 < run.busy <= 1
    for (_, end, _), (begin, _, _) in pairwise(seen.forwards):
        assert begin >= end, "one forward at a time"
    assert all(1 <= tokens <= TESTBED.token_budget and end > begin for begin, end, tokens in seen.forwards)
    for transfers in seen.sent_.values():
        for (_, end, _), (begin, _, _) in pairwise(transfers):
            assert begin >= end, "an uplink carries one thing at a time"
        for begin, end, tokens in transfers:
            low, high = (tokens * STATE_BYTES / rate for rate in reversed(TESTBED.uplink_bytes_per_second))
            assert low * (1 - 1e-9) <= end - begin + 1e-12
            assert end - begin <= high * (1 + 1e-9) + 1e-12


@settings(max_examples=10, deadline=None)
@given(budget=st.integers(3968, 4100), seed=st.integers(0, 100))
def test_no_forward_is_larger_than_the_budget(budget: int, seed: int) -> None:
    seen = Seen()
    Simulation(
        BY_KEY["u-shape"], replace(TESTBED, token_budget=budget), Load(devices=6, answers=3, prompt_tokens=3968), seed, seen
    ).run()
    assert max(tokens for *_, tokens in seen.forwards) <= budget


@pytest.mark.parametrize("method", METHODS, ids=lambda each: each.key)
def test_the_same_seed_gives_the_same_run(method) -> None:  # type: ignore[no-untyped-def]
    assert Simulation(method, TESTBED, FEW, 7).run() == Simulation(method, TESTBED, FEW, 7).run()
    assert Simulation(method, TESTBED, FEW, 7).run() != Simulation(method, TESTBED, FEW, 8).run()


def _alone(key: str, testbed: Testbed = TESTBED, prompt: int = 2_000) -> tuple[float, float]:
    """Mean TTFT and TBT of one device alone."""
    run = Simulation(BY_KEY[key], testbed, Load(devices=1, prompt_tokens=prompt, answers=40)).run()
    return sum(run.ttft_seconds) / 40, sum(run.tbt_seconds) / 40


def test_a_prompt_of_2000_tokens_takes_what_it_took_in_the_paper() -> None:
    ttft, _ = _alone("u-shape")
    assert ttft == pytest.approx(3.57, rel=0.02)  # rates are drawn


def test_one_device_alone_takes_the_sum_of_its_parts_for_a_token() -> None:
    _, tbt = _alone("u-shape", prompt=10)
    each = STATE_BYTES * sum(map(mean_byte_seconds, (TESTBED.uplink_bytes_per_second, TESTBED.downlink_bytes_per_second)))
    forward = TESTBED.forward_base_seconds + TESTBED.forward_token_seconds
    assert tbt == pytest.approx(
        TESTBED.shallow_seconds + 2 * TESTBED.network_seconds + each + forward + TESTBED.head_seconds, rel=0.005
    )


def test_chunks_overlap_transfer_and_work() -> None:
    whole, _ = _alone("u-shape")
    chunked, _ = _alone("chunking")
    upload = 2_000 * STATE_BYTES * mean_byte_seconds(TESTBED.uplink_bytes_per_second)
    assert upload < chunked < 0.75 * whole


def test_drafts_pay_and_drafting_ahead_pays_more_with_each_hit() -> None:
    assert _alone("both", prompt=10)[1] < _alone("chunking", prompt=10)[1]
    by_hits = [_alone("parallel", replace(TESTBED, hit_rate=hits), 10)[1] for hits in (0.0, 0.5, 1.0)]
    assert by_hits == sorted(by_hits, reverse=True)
    assert by_hits[0] > 1.1 * by_hits[2]


def test_the_accept_length_is_the_papers_but_for_the_last_draft_of_an_answer() -> None:
    run = Simulation(BY_KEY["both"], TESTBED, Load(devices=10, answers=100)).run()
    assert run.accept_length == pytest.approx(2.04, abs=0.03)


def test_whole_prompts_of_others_delay_a_token_more_than_chunks_do() -> None:
    tbt = {}
    for key in ("u-shape", "chunking"):
        runs = [Simulation(BY_KEY[key], TESTBED, Load(devices=20, answers=60), seed).run() for seed in range(2)]
        tbt[key] = sum(sum(run.tbt_seconds) for run in runs)
    assert tbt["u-shape"] > tbt["chunking"]


@pytest.mark.parametrize(
    "wrong", [{"devices": 0}, {"rate": 0.0}, {"rate": 1e9}, {"prompt_tokens": 3969}, {"prompt_tokens": 0}, {"answers": 0}]
)
def test_a_load_that_cannot_be_is_named(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Load(**wrong)
