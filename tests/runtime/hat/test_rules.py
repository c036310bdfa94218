from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SettingError
from runtime.hat.rules import chunk_tokens, draft_steps, evenly

HIDDEN, MEGABYTE = 8192, 1e6


def test_the_upload_of_a_chunk_lasts_as_long_as_its_wait_and_its_forward() -> None:
    # 8192 B at 8.192 MB/s is 1 ms a token: X * 1 ms = 50 ms + 10 ms + X * 0.4 ms
    assert chunk_tokens(HIDDEN, 8.192 * MEGABYTE, 0.05, 0.01, 0.0004) == 100


def test_pipeline_stages_share_a_forward() -> None:
    # X * 1 ms = 50 ms + (40 ms + X * 0.4 ms) / 4
    assert chunk_tokens(HIDDEN, 8.192 * MEGABYTE, 0.05, 0.04, 0.0004, pipeline_stages=4) == 66


@given(
    uplink=st.floats(1e5, 1e9),
    waiting=st.floats(0, 10),
    base=st.floats(0, 1),
    token=st.floats(0, 0.1),
    stages=st.integers(1, 8),
)
def test_a_chunk_is_in_its_range_and_balances_to_a_token_where_it_is_inside(
    uplink: float, waiting: float, base: float, token: float, stages: int
) -> None:
    chunk = chunk_tokens(HIDDEN, uplink, waiting, base, token, stages)
    assert 32 <= chunk <= 512

    def surplus(tokens: int) -> float:
        return tokens * HIDDEN / uplink - waiting - (base + token * tokens) / stages

    slack = 1e-6 * HIDDEN / uplink
    assert chunk == 32 or surplus(chunk) <= slack
    assert chunk == 512 or surplus(chunk + 1) >= -slack


@pytest.mark.parametrize("token_seconds", [0.001, 0.01])
def test_a_link_as_fast_as_the_cloud_or_faster_takes_the_largest(token_seconds: float) -> None:
    assert chunk_tokens(HIDDEN, 8.192 * MEGABYTE, 0, 0, token_seconds) == 512


def test_nothing_to_wait_for_takes_the_smallest() -> None:
    assert chunk_tokens(HIDDEN, 8.192 * MEGABYTE, 0, 0, 0) == 32
    assert chunk_tokens(HIDDEN, 8.192 * MEGABYTE, 0, 0, 0, least=7) == 7


@pytest.mark.parametrize("faster", [1.5, 3, 10])
def test_a_faster_link_and_a_longer_wait_take_larger_chunks(faster: float) -> None:
    slow = chunk_tokens(HIDDEN, 5 * MEGABYTE, 0.05, 0.02, 0.0001)
    assert chunk_tokens(HIDDEN, 5 * MEGABYTE * faster, 0.05, 0.02, 0.0001) > slow
    assert chunk_tokens(HIDDEN, 5 * MEGABYTE, 0.05 * faster, 0.02, 0.0001) > slow


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"bytes_per_token": 0}, "bytes_per_token=0"),
        ({"uplink_bytes_per_second": -1}, "uplink_bytes_per_second=-1"),
        ({"waiting_seconds": float("nan")}, "waiting_seconds=nan"),
        ({"forward_token_seconds": -1.0}, "forward_token_seconds=-1.0"),
        ({"pipeline_stages": 0}, "pipeline_stages=0"),
        ({"least": 64, "most": 32}, "most=32"),
    ],
)
def test_a_wrong_argument_is_named(wrong: dict[str, Any], named: str) -> None:
    right: dict[str, Any] = {
        "bytes_per_token": HIDDEN,
        "uplink_bytes_per_second": MEGABYTE,
        "waiting_seconds": 0,
        "forward_base_seconds": 0,
        "forward_token_seconds": 0,
    }
    with pytest.raises(SettingError, match=named):
        chunk_tokens(**right | wrong)


@given(left=st.integers(1, 5000), chunk=st.integers(1, 512))
def test_equal_chunks_leave_no_small_one(left: int, chunk: int) -> None:
    sizes, todo = list[int](), left
    while todo:
        sizes.append(evenly(todo, chunk))
        todo -= sizes[-1]
    assert sum(sizes) == left
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 512
    assert min(sizes) >= min(chunk, left) or len(sizes) == -(-left // 512)


def test_steps_that_end_before_the_answer_is_there() -> None:
    assert draft_steps(0.02, 0.005, 0.004, 0.01, 8) == 2
    assert draft_steps(0.002, 0.005, 0.002, 0.01, 8) == 0
    assert draft_steps(0.1, 0.1, 0.1, 0.1, 8) == 3  # though 0.3 / 0.1 rounds to less
    assert draft_steps(9, 0, 0, 0.01, 8) == 8


@given(away=st.floats(0, 100), draft=st.floats(1e-6, 10), most=st.integers(0, 20))
def test_no_more_steps_than_there_is_time_and_leave_for(away: float, draft: float, most: int) -> None:
    steps = draft_steps(away, 0, 0, draft, most)
    assert 0 <= steps <= most
    assert steps * draft <= away + 1e-8 * draft
    assert steps == most or (steps + 1) * draft > away


def test_a_draft_that_takes_no_time_is_refused() -> None:
    with pytest.raises(SettingError, match="draft_seconds=0"):
        draft_steps(1, 0, 0, 0, 8)
