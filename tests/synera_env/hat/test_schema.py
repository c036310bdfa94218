"""HAT's rows: knobs come back from actions, every observation stays in its bounds, and shows what a device knows."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.hat.knobs import MAX_DRAFT_LENGTH, Knobs
from synera_env.hat.replay import HatReplayEnv
from synera_env.hat.schema import FIXED, HALF, HISTORY, U_SHAPE, hat_schema, log_seconds
from synera_env.radio import Outages
from tests.runtime.hat.test_session import any_knobs
from tests.support.hat import recorded_hat
from tests.support.recorded import GPU, LINKS, PHONE
from traces.links.generators import constant_link

SCHEMA = hat_schema()
KNOBS = len(SCHEMA.rows)


@pytest.fixture
def env(tiny_deep: Path) -> HatReplayEnv:
    return HatReplayEnv(recorded_hat(tiny_deep), LINKS, PHONE, GPU)


@pytest.fixture
def calm(tiny_deep: Path) -> HatReplayEnv:
    return HatReplayEnv(recorded_hat(tiny_deep), [constant_link(20.0)], PHONE, GPU, outages=Outages.never())


def seen(env: HatReplayEnv, row: str) -> list[float]:
    """What the next observation shows of a row."""
    values = SCHEMA.encode(env.point, env.session.records, env._preference)
    return values[SCHEMA.places(row)].tolist()


@given(knobs=any_knobs())
def test_an_action_made_from_knobs_gives_the_knobs_back(knobs: Knobs) -> None:
    action = SCHEMA.action(knobs)
    assert action in SCHEMA.action_space
    back = SCHEMA.knobs(action)
    whole = ("draft_length", "candidates", "precision")
    assert [getattr(back, name) for name in whole] == [getattr(knobs, name) for name in whole]
    assert astuple(back) == pytest.approx(astuple(knobs), abs=1e-5)


@given(action=hnp.arrays(np.float32, KNOBS, elements=st.floats(-1e6, 1e6, width=32)))
def test_any_action_is_clipped_to_valid_knobs(action: np.ndarray) -> None:
    knobs = SCHEMA.knobs(action)  # which refuse what is out of their range
    assert knobs == SCHEMA.knobs(np.clip(action, -1, 1))


def test_presets_choices_and_the_grid_are_settings_of_their_own() -> None:
    assert SCHEMA.first_knobs is U_SHAPE
    for settings in (SCHEMA.presets.values(), SCHEMA.choices, SCHEMA.grid()):
        assert len({SCHEMA.action(each).tobytes() for each in settings}) == len(list(settings))
    assert {each.precision for each in SCHEMA.presets.values()} == {HALF}


@pytest.mark.parametrize("seed", range(4))
def test_every_observation_is_inside_its_bounds_and_finite(env: HatReplayEnv, seed: int) -> None:
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    for _ in range(120):
        assert observation in env.observation_space
        assert np.isfinite(observation).all()
        observation, _, terminated, truncated, _ = env.step(rng.uniform(-1, 1, KNOBS).astype(np.float32))
        assert not truncated
        if terminated:
            observation, _ = env.reset()


def test_the_prompt_is_shown_until_it_is_sent_and_the_precision_once_it_is_fixed(calm: HatReplayEnv) -> None:
    calm.reset(seed=0, options={"prompt": 1})
    assert (seen(calm, "prompt_left"), seen(calm, "precision")) == ([1.0], [0.0, 0.0, 0.0])
    assert seen(calm, "state_upload") == [-6.0]
    tokens = len(calm.graphs.prompt_tokens(1))
    calm.advance(Knobs(chunk_doublings=3.0, precision=2))
    assert seen(calm, "precision") == [0.0, 0.0, 1.0]
    assert seen(calm, "prompt_left") == pytest.approx([1 - 8 / tokens])
    while calm.point.prompt_left:
        calm.advance(Knobs(chunk_doublings=3.0, precision=0))
    assert calm.session.records[-1].replies[0].uplink_bytes > 0
    assert seen(calm, "precision") == [0.0, 0.0, 1.0]
    assert seen(calm, "tokens_left") == [0.0]


def test_past_drafts_are_shown_the_last_first(calm: HatReplayEnv) -> None:
    calm.reset(seed=0, options={"prompt": 1})
    while calm.point.prompt_left:
        calm.advance(FIXED)
    assert seen(calm, "past_drafted") == [0.0] * HISTORY
    for length in (1, 3):
        calm.advance(Knobs(draft_threshold=0.0, draft_length=length, precision=HALF))
    assert seen(calm, "past_drafted") == pytest.approx([3 / MAX_DRAFT_LENGTH, 1 / MAX_DRAFT_LENGTH, 0.0])
    last = calm.session.records[-1]
    assert seen(calm, "past_accepted")[0] == pytest.approx(last.accepted / last.judged)
    assert seen(calm, "past_confidence")[0] == pytest.approx(last.confidence)
    assert seen(calm, "away")[0] == pytest.approx(log_seconds(calm.point.estimates.away_seconds))


@pytest.mark.parametrize(("seconds", "shown"), [(None, -6.0), (0.0, -6.0), (1e-9, -6.0), (0.01, -2.0), (1e9, 2.0)])
def test_times_are_shown_as_logarithms_within_bounds(seconds: float | None, shown: float) -> None:
    assert log_seconds(seconds) == pytest.approx(shown)
