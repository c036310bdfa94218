from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from runtime.errors import SettingError
from synera_env.radio import HORIZON_SECONDS, Outages, Radio, Windows
from traces.links.generators import constant_link

LINK = constant_link()


def share_down(windows: Windows, seconds: float) -> float:
    """Share of times at which nothing gets through."""
    radio = Radio(LINK, 0.0, windows)
    times = np.arange(0.0, seconds, 0.05)
    return float(np.mean([not radio.reachable(float(at)) for at in times]))


def test_nothing_gets_through_within_a_window() -> None:
    radio = Radio(LINK, 5.0, ((-1.0, 0.5), (2.0, 3.0), (2.5, 2.6), (2.9, 3.5)))
    wanted = {0.0: False, 0.499: False, 0.5: True, 1.999: True, 2.0: False, 2.7: False, 3.2: False, 3.5: True, 99.0: True}
    assert {at: radio.reachable(at) for at in wanted} == wanted
    assert all(Radio(LINK).reachable(at) for at in wanted)


def test_a_seed_gives_its_outages() -> None:
    one, two, other = (Outages().draw(seed) for seed in (1, 1, 2))
    assert one == two
    assert one != other
    assert list(one) == sorted(one)
    assert all(0 <= start <= HORIZON_SECONDS and start < stop for start, stop in one)


@pytest.mark.parametrize(
    ("outages", "share"),
    [
        (Outages(), 2 / 62 + 0.01),
        (Outages(every_seconds=6.0, mean_seconds=2.0, loss_rate=0.0), 0.25),
        (Outages(mean_seconds=0.0, loss_rate=0.1), 0.1),
    ],
)
def test_the_share_of_lost_times_is_what_was_asked_for(outages: Outages, share: float) -> None:
    found = np.mean([share_down(outages.draw(seed), HORIZON_SECONDS) for seed in range(300)])
    assert found == pytest.approx(share, rel=0.15)


def test_an_answer_may_start_inside_an_outage_as_often_as_at_any_time() -> None:
    outages = Outages(every_seconds=6.0, mean_seconds=2.0, loss_rate=0.0)
    starts = [outages.draw(seed, 1.0) for seed in range(800)]
    inside = [w for w in starts if not Radio(LINK, 0.0, w).reachable(0.0)]
    assert len(inside) / len(starts) == pytest.approx(0.25, abs=0.05)
    assert np.mean([w[0][1] for w in inside]) == pytest.approx(2.0, rel=0.25)  # what is left of it is as long as a whole one


@pytest.mark.parametrize(
    "none", [Outages.never(), Outages(every_seconds=math.inf, loss_rate=0.0), Outages(mean_seconds=0, loss_rate=0)]
)
def test_outages_can_be_switched_off(none: Outages) -> None:
    assert none.draw(0) == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("every_seconds", bad) for bad in (0.0, -1.0, math.nan, "60", None, True)],
        *[("mean_seconds", bad) for bad in (-0.1, math.nan, math.inf, "2", None, True)],
        *[("loss_rate", bad) for bad in (-0.1, 0.51, 1.0, math.nan, "0", None, True)],
    ],
)
def test_what_makes_no_sense_is_named(field: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"{field}="):
        Outages(**{field: value})
