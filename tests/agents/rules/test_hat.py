"""The rule of HAT's paper: the chunks that it asks for by what the device has measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.rules.hat import HatRule
from synera_env import SettingError, synera_schema
from synera_env.hat.schema import FIXED, hat_schema

SCHEMA = hat_schema()


def seen(
    left: int, *, upload: float = 0.0, queue: float = 0.0, forward: float = 0.0, token: float = 0.0
) -> NDArray[np.float32]:
    """An observation before a chunk; 0 seconds are not known."""
    found = np.zeros(len(SCHEMA.low), np.float32)
    found[SCHEMA.places("tokens_left")] = math.log2(left + 1)
    for name, seconds in (("state_upload", upload), ("queue", queue), ("forward", forward), ("forward_token", token)):
        found[SCHEMA.places(name)] = math.log10(seconds) if seconds else -6.0
    return found


def chunk(observation: NDArray[np.float32]) -> int:
    action, _ = HatRule(SCHEMA).predict(observation)
    return int(SCHEMA.knobs(action).chunk_tokens)


def test_nothing_measured_takes_a_small_first_chunk() -> None:
    assert chunk(seen(256)) == 32


def test_a_chunk_is_balanced_and_those_left_are_equal() -> None:
    # X * 1 ms = 20 ms + 30 ms + X * 0.5 ms: 100 tokens
    known = {"upload": 1e-3, "queue": 0.02, "forward": 0.03, "token": 0.5e-3}
    assert chunk(seen(300, **known)) == 100
    assert chunk(seen(290, **known)) == 145  # not 100, 100 and 90
    assert chunk(seen(145, **known)) == 145
    assert [chunk(seen(left, **known)) for left in (40, 5, 1, 0)] == [100] * 4  # a session sends what there is


def test_a_cloud_slower_than_the_link_takes_the_largest_equal_chunks() -> None:
    assert chunk(seen(600, upload=1e-3, forward=0.03, token=2e-3)) == 300
    assert chunk(seen(500, upload=1e-3, forward=0.03, token=2e-3)) == 512


def test_all_else_is_the_fixed_preset_also_for_rows() -> None:
    rows = np.stack([seen(300), seen(64, upload=1e-3, queue=0.0505, forward=0.03)])
    actions, _ = HatRule(SCHEMA).predict(rows)
    found = [SCHEMA.knobs(action) for action in actions]
    assert [each.chunk_tokens for each in found] == [34, 80]
    assert {(round(k.draft_threshold, 6), k.draft_length, k.candidates, k.precision) for k in found} == {
        (FIXED.draft_threshold, FIXED.draft_length, FIXED.candidates, FIXED.precision)
    }


def test_it_controls_no_other_system() -> None:
    with pytest.raises(SettingError, match="controls the system hat, not synera"):
        HatRule(synera_schema(exits=2))
