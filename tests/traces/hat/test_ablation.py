from __future__ import annotations

from collections.abc import Sequence

import pytest

from runtime.errors import SettingError
from traces.hat.ablation import BAR, Estimate, methods_of, one_device_speedup, simulated
from traces.hat.run import Load
from traces.hat.testbed import FITTED, METHODS, Testbed

TESTBED = Testbed.of(FITTED)


def test_the_fitted_table_is_within_the_bar() -> None:
    """TTFT and TBT of all rows; a few seeds, as lengths are drawn evenly."""
    rows = simulated(METHODS, TESTBED, Load(rate=FITTED.requests_per_second), range(50, 52))
    off = {row.method.key: (round(row.ttft_off, 3), round(row.tbt_off, 3)) for row in rows}
    assert max(max(map(abs, each)) for each in off.values()) <= 1.2 * BAR, off
    tbt = [row.tbt_ms.mean for row in rows]
    assert tbt[0] == max(tbt)
    assert tbt[-1] == min(tbt)


def test_an_interval_is_students() -> None:
    assert Estimate.of([5.0]) == Estimate(5.0, 5.0, 5.0)
    found = Estimate.of([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.high - found.mean == pytest.approx(4.303 / 3**0.5, rel=1e-3)


def test_rows_come_in_the_tables_order() -> None:
    assert [each.key for each in methods_of(("both", "u-shape"))] == ["u-shape", "both"]


@pytest.mark.parametrize("keys", [(), ("nope",), ("both", "both")])
def test_rows_that_cannot_be_are_refused(keys: Sequence[str]) -> None:
    with pytest.raises(SettingError, match="rows"):
        methods_of(keys)


def test_each_run_is_told_of() -> None:
    told = []
    simulated(METHODS[:2], TESTBED, Load(devices=2, answers=2), range(3), lambda: told.append(1))
    assert len(told) == 6


def test_one_device_decodes_faster_with_drafts() -> None:
    speedup = one_device_speedup(TESTBED, range(1))
    assert 1 < speedup["both"] < speedup["parallel"] < 2.06
