"""What a network is shown: fixed scales, nothing that training has not met, nothing large."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.scaling import CLIP, Scaling
from synera_env import synera_schema

SCHEMA = synera_schema(2)
ROWS = np.random.default_rng(0).uniform(SCHEMA.low, SCHEMA.high, (200, len(SCHEMA.low))).astype(np.float32)


@pytest.fixture
def scaling() -> Scaling:
    return Scaling(SCHEMA.observation_space, SCHEMA.center, SCHEMA.scale)


def shown(scaling: Scaling, rows: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return scaling(torch.as_tensor(rows)).numpy()


def test_each_entry_is_shown_from_its_center_by_its_scale(scaling: Scaling) -> None:
    wanted = np.clip((ROWS - SCHEMA.center) / SCHEMA.scale, -CLIP, CLIP)
    np.testing.assert_allclose(shown(scaling, ROWS), wanted, rtol=1e-6, atol=1e-6)
    assert np.abs(shown(scaling, ROWS)).max() <= CLIP
    np.testing.assert_array_equal(shown(scaling, SCHEMA.center[None]), np.zeros((1, len(SCHEMA.low))))


def test_what_training_has_not_met_is_shown_as_the_nearest_that_it_has(scaling: Scaling) -> None:
    """Above all an entry that never varied: live it must not be blown up by its small variance."""
    low, high = ROWS[:20].min(0), ROWS[:20].max(0)
    low[3] = high[3] = SCHEMA.center[3]
    scaling.has_seen(low, high)
    np.testing.assert_array_equal(shown(scaling, ROWS), shown(scaling, np.clip(ROWS, low, high)))
    assert (shown(scaling, ROWS)[:, 3] == 0.0).all()
    assert (shown(scaling, ROWS)[20:] != shown(scaling, ROWS[:180])).any()


def test_what_was_met_goes_with_the_weights(scaling: Scaling) -> None:
    other = Scaling(SCHEMA.observation_space, SCHEMA.center, SCHEMA.scale)
    scaling.has_seen(ROWS[:5].min(0), ROWS[:5].max(0))
    assert (shown(other, ROWS) != shown(scaling, ROWS)).any()
    other.load_state_dict(scaling.state_dict())
    np.testing.assert_array_equal(shown(other, ROWS), shown(scaling, ROWS))
    assert not list(scaling.parameters())  # nothing here is learned
