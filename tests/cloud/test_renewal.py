from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloud.renewal import Renewed
from runtime.errors import SettingError


class World:
    """A file, and a clock that the test sets."""

    def __init__(self, folder: Path) -> None:
        self.path, self.seconds, self.reads = folder / "file", 0.0, 0
        self.path.write_text("one")
        self.renewed = Renewed("files", [self.path], self.read, now=lambda: self.seconds, pause_seconds=1.0)

    def read(self) -> str:
        self.reads += 1
        text = self.path.read_text() if self.path.exists() else "bad"
        if text == "bad":
            raise SettingError("no good")
        return text


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_file_is_read_again_only_when_it_changed_and_a_pause_is_over(world: World) -> None:
    world.seconds = 5.0
    assert (world.renewed.refresh(), world.reads) == (False, 1)
    world.path.write_text("second")
    world.seconds = 5.9
    assert (world.renewed.refresh(), world.renewed.value) == (False, "one")
    world.seconds = 6.0
    assert (world.renewed.refresh(), world.renewed.value) == (True, "second")
    world.seconds = 9.0
    assert (world.renewed.refresh(), world.reads) == (False, 2)


def test_a_file_of_the_same_size_and_time_in_its_place_is_another(world: World) -> None:
    other, before = world.path.with_name("other"), world.path.stat()
    other.write_text("two")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(world.path)
    world.seconds = 1.0
    assert (world.renewed.refresh(), world.renewed.value) == (True, "two")


@pytest.mark.parametrize("how", ["bad", "gone"])
def test_what_was_read_last_stays_while_a_file_cannot_be_used(how: str, world: World, caplog: pytest.LogCaptureFixture) -> None:
    if how == "bad":
        world.path.write_text("bad")
    else:
        world.path.unlink()
    for second in range(1, 5):
        world.seconds = second
        assert (world.renewed.refresh(), world.renewed.value) == (False, "one")
    assert caplog.messages == ["files not renewed"]  # once, not at every look
    assert caplog.records[0].fields == {"reason": "no good"}  # type: ignore[attr-defined]
    world.path.write_text("mended")
    world.seconds = 9.0
    assert (world.renewed.refresh(), world.renewed.value) == (True, "mended")


def test_the_first_reading_must_succeed(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no good"):
        Renewed("files", [tmp_path / "none"], lambda: (_ for _ in ()).throw(SettingError("no good")))
