"""How commands end: what is a user's mistake, what is a bug, and what is said of each."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.errors import CheckpointError, SettingError, SyneraError
from scripts import _ending
from scripts._cli import launch
from traces.errors import TraceError


@dataclass(frozen=True)
class Arguments:
    """One number."""

    number: int = 1

    def __post_init__(self) -> None:
        if self.number < 0:
            raise SettingError(f"number={self.number} must be at least 0")


@dataclass(frozen=True)
class Nested:
    """Arguments in arguments."""

    inner: Arguments = Arguments()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Launch a script whose main raises what is given."""

    def launched(raised: BaseException | None, *words: str, kind: type = Arguments) -> None:
        def main(_: object) -> None:
            if raised is not None:
                raise raised

        monkeypatch.setattr(sys, "argv", ["script", *words])
        launch(kind, main, None)

    return launched


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (SyneraError("no"), 2, "error: no"),
        (SettingError("steps=0"), 2, "error: steps=0"),
        (TraceError("gone"), 2, "error: gone"),
        (CheckpointError("[bold]x[/] :smile: [/INST]"), 2, "error: [bold]x[/] :smile: [/INST]"),
        (SyneraError("first\nsecond\r\nthird"), 2, "error: first second third"),
        (SyneraError("\x1b]0;title\x07 \u202e \udcff"), 2, "error: \\x1b]0;title\\x07 \\u202e \\udcff"),
        (FileNotFoundError(2, "No such file", "a.txt"), 2, "error: a.txt: there is no such file or folder"),
        (FileNotFoundError(2, "No such file", b"a.txt"), 2, "error: a.txt: there is no such file or folder"),
        (IsADirectoryError(21, "Is a directory", "."), 2, "error: .: it is a folder where a file is wanted"),
        (PermissionError(13, "Permission denied", Path("x")), 2, "error: x: you have no permission for it"),
        (OSError(errno.EPERM, "Not permitted", "x"), 2, "error: x: you have no permission for it"),
        (NotADirectoryError(20, "Not a directory", "a/b"), 2, "error: a/b: a part of it is a file where a folder is wanted"),
        (FileExistsError(17, "File exists", "a"), 2, "error: a: it is there already, and is no folder"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), 2, "error: aaa: its name is too long"),
        (OSError(errno.EROFS, "Read-only", "/sys/a"), 2, "error: /sys/a: it is on a file system that can only be read"),
        (OSError(errno.ELOOP, "Loop", "a"), 2, "error: a: its links lead in a circle"),
        (OSError(errno.EACCES, "Rename", "part", None, "whole"), 2, "error: whole: you have no permission for it"),
        (
            OSError(errno.ENOSPC, "No space left", "a"),
            2,
            "error: a: nothing more can be written, as the disk is full or a quota is reached",
        ),
        (OSError(errno.ENOSPC, "No space"), 2, "error: nothing more can be written, as the disk is full or a quota is reached"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, BaseException) else "",
)
def test_mistakes_are_one_line(
    raised: BaseException, code: int, said: str, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run(raised)
    assert left.value.code == code
    assert capsys.readouterr().err == said + "\n"


@pytest.mark.parametrize(
    "bug",
    [
        ZeroDivisionError("a bug"),
        ValueError("steps=0"),
        TypeError("no"),
        KeyError("no"),
        AssertionError("no"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
        OSError("of no number"),
        FileNotFoundError("of no path"),
        OSError(errno.ENOENT, "of no path"),
        OSError(errno.EIO, "Input/output error", "a.txt"),
        OSError(errno.EMFILE, "Too many open files", "a.txt"),
        ConnectionRefusedError(111, "refused"),
        TimeoutError("late"),
    ],
    ids=repr,
)
def test_bugs_keep_their_trace(bug: Exception, run: Callable[..., None]) -> None:
    with pytest.raises(type(bug)) as raised:
        run(bug)
    assert raised.value is bug


@pytest.mark.parametrize("make", [ValueError, KeyError, SettingError])
def test_only_a_refused_setting_is_taken_from_the_parser(
    make: type[Exception], run: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(self: Arguments) -> None:
        raise make("number")

    monkeypatch.setattr(Arguments, "__post_init__", wrong)
    with pytest.raises((SystemExit, KeyError)) as raised:
        run(None)
    if make is not KeyError:
        assert isinstance(raised.value, SystemExit)
        assert raised.value.code == 2
        assert (capsys.readouterr().err == "error: number\n") == (make is SettingError)


@pytest.mark.parametrize(("kind", "option"), [(Arguments, "--number"), (Nested, "--inner.number")])
def test_a_refused_setting_is_one_line_wherever_it_stands(
    kind: type, option: str, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run(None, option, "-3", kind=kind)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: number=-3 must be at least 0\n"


@pytest.mark.parametrize(
    "words", [("--nu\x1b[31mmber", "1"), ("--number", "\x1b[31m"), ("\x1b]0;x\x07",), ("--number", "[red]")]
)
def test_what_cannot_be_read_is_shown_harmless(
    words: tuple[str, ...], run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run(None, *words)
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert "\x1b" not in said
    assert "\x07" not in said
    assert ("[red]" in said) == ("[red]" in words)
    assert "Traceback" not in said


def test_an_end_without_a_mistake_says_nothing(run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    run(None)
    assert capsys.readouterr() == ("", "")


def test_real_wrong_paths_are_known(tmp_path: Path) -> None:
    """What the system itself raises, not what we believe that it does."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    attempts: list[Callable[[], object]] = [
        (tmp_path / "none").read_bytes,
        tmp_path.read_bytes,
        (tmp_path / "file" / "x").read_bytes,
        (tmp_path / "file").mkdir,
        (tmp_path / "loop").read_bytes,
        (tmp_path / ("x" * 300)).read_bytes,
        lambda: os.rename(tmp_path / "file", tmp_path / "none" / "file"),
    ]
    for attempt in attempts:
        with pytest.raises(OSError) as raised:
            attempt()
        assert str(tmp_path) in (_ending.mistake(raised.value) or "")
