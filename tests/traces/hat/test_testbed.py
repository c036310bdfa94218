from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from runtime.errors import SettingError
from traces.hat.sources import DERIVED, FITTED_HERE, OURS, PAPER, constants
from traces.hat.testbed import (
    ANCHOR_TRANSFER_SECONDS,
    DOWNLINK_BYTES_PER_SECOND,
    FITTED,
    GUESSED,
    METHODS,
    STATE_BYTES,
    UPLINK_BYTES_PER_SECOND,
    Fitted,
    Testbed,
    mean_byte_seconds,
)


def test_the_table_is_the_papers() -> None:
    assert [(each.ttft_ms, each.tbt_ms) for each in METHODS] == [
        (655.6, 52.3),
        (384.0, 39.4),
        (655.3, 38.3),
        (384.3, 30.6),
        (384.2, 26.4),
    ]
    assert [(each.chunking, each.drafts, each.ahead) for each in METHODS] == [
        (False, False, False),
        (True, False, False),
        (False, True, False),
        (True, True, False),
        (True, True, True),
    ]


def test_the_uplink_is_in_the_papers_range_and_gives_its_transfer_of_2000_tokens() -> None:
    testbed = Testbed.of(FITTED)
    low, high = testbed.uplink_bytes_per_second
    assert UPLINK_BYTES_PER_SECOND[0] < low < high <= UPLINK_BYTES_PER_SECOND[1]
    there_and_back = mean_byte_seconds((low, high)) + mean_byte_seconds(DOWNLINK_BYTES_PER_SECOND)
    assert 2_000 * STATE_BYTES * there_and_back == pytest.approx(ANCHOR_TRANSFER_SECONDS)


@pytest.mark.parametrize("fitted", [FITTED, GUESSED])
def test_the_parts_of_a_2000_token_prompt_are_the_papers_sum(fitted: Fitted) -> None:
    testbed = Testbed.of(fitted)
    device = testbed.shallow_seconds + 2_000 * testbed.read_token_seconds + testbed.head_seconds
    cloud = testbed.forward_base_seconds + 2_000 * testbed.forward_token_seconds
    assert device + cloud + 2 * testbed.network_seconds + ANCHOR_TRANSFER_SECONDS == pytest.approx(3.57)
    assert testbed.read_token_seconds >= 0


def test_a_draft_step_is_layers_adapter_and_head() -> None:
    testbed = Testbed.of(FITTED)
    parameters = 2 * 202_375_168 + 67_108_864 + 131_072_000
    assert testbed.draft_seconds == pytest.approx(2 * parameters / FITTED.device_bytes_per_second)
    assert testbed.shallow_seconds + testbed.head_seconds < testbed.draft_seconds


def test_a_cloud_too_slow_for_the_papers_prompt_is_refused() -> None:
    with pytest.raises(SettingError, match=r"3\.57 s"):
        Testbed.of(dataclasses.replace(FITTED, forward_token_seconds=0.001))


def test_another_uplink_varies_as_much() -> None:
    before, after = Testbed.of(FITTED).uplink_bytes_per_second, Testbed.of(FITTED).with_uplink(1e6).uplink_bytes_per_second
    assert sum(after) / 2 == pytest.approx(1e6)
    assert after[1] / after[0] == pytest.approx(before[1] / before[0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"network_seconds": 1.0},
        {"forward_base_seconds": 0.0},
        {"forward_token_seconds": -1.0},
        {"device_bytes_per_second": 1.0},
        {"requests_per_second": 0.0},
        {"hit_rate": 1.1},
    ],
)
def test_a_constant_out_of_its_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        dataclasses.replace(FITTED, **wrong)


def test_each_constant_says_where_it_comes_from() -> None:
    shown = constants(Testbed.of(FITTED), FITTED)
    assert {each.kind for each in shown} == {PAPER, DERIVED, OURS, FITTED_HERE}
    fitted = [each for each in shown if each.kind == FITTED_HERE]
    assert len(fitted) == len(dataclasses.fields(Fitted))
    assert all(each.source for each in fitted)
