"""Work in processes and on Ray: what comes back, what a lost process costs, and that nothing outlives who asked for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tyro

from runtime.errors import SettingError
from scripts import _scale, sweep
from scripts._scale import Ended, FaultError, LostError, check_ray, in_order, spread
from tests.support.spread_work import say_that_it_was_called_off, square_or_not


def _told(found: dict[int, Ended[int]]) -> None:
    assert {number: each.result for number, each in found.items()} == {0: 0, 1: None, 2: None, 3: None, 4: 16}
    with pytest.raises(LostError, match="ended by itself"):
        found[1].value()
    with pytest.raises(FaultError, match="ValueError: a bug"):
        found[2].value()
    with pytest.raises(SettingError, match=r"^a mistake$"):
        found[3].value()


def test_a_process_that_is_lost_or_fails_costs_its_own_item_alone() -> None:
    _told({each.number: each for each in spread(square_or_not, range(5), 2)})


def test_so_does_a_task_of_ray(ray_here: None) -> None:
    _told({each.number: each for each in spread(square_or_not, range(5), 2, "local")})


def test_what_is_under_way_is_called_off_when_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    def stop() -> None:
        if (tmp_path / "began").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(spread(say_that_it_was_called_off, [tmp_path], 1, on_wait=stop))
    assert (tmp_path / "called off").exists()


def test_results_come_in_the_order_of_their_items() -> None:
    assert list(in_order(Ended(number, str(number)) for number in (2, 0, 1, 3))) == ["0", "1", "2", "3"]
    with pytest.raises(LostError):
        list(in_order(iter([Ended(0, None, LostError("gone"))])))


@pytest.mark.parametrize(
    ("words", "address"),
    [([], None), (["--ray"], "local"), (["--ray", "auto"], "auto"), (["--ray", "192.0.2.1:6379"], "192.0.2.1:6379")],
)
def test_an_address_may_follow(words: list[str], address: str | None) -> None:
    assert tyro.cli(sweep.Arguments, args=words).ray == address


def test_without_ray_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(_scale, "find_spec", lambda name: None)
    check_ray(None)
    with pytest.raises(SettingError, match=r"--ray needs Ray, which is not installed here: pip install 'synera-env\[ray\]'"):
        check_ray("local")
