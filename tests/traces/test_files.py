"""Files and folders are written whole or not at all, and nothing else is left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from traces import files
from traces.errors import TraceError
from traces.files import replacing, replacing_folder, write_bytes, write_json, write_text

ROOT = Path(__file__).resolve().parents[2]


class Broken(Exception):
    """What goes wrong within a block."""


def held(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------- files


def test_a_file_is_written_below_folders_that_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "grün\n")
    write_bytes(str(tmp_path / "a" / "c.bin"), b"\x00\x01")
    write_json(tmp_path / "d.json", {"one": [1, 2.5]})
    assert (tmp_path / "a" / "b.txt").read_bytes() == "grün\n".encode()
    assert (tmp_path / "a" / "c.bin").read_bytes() == b"\x00\x01"
    assert (tmp_path / "d.json").read_text() == json.dumps({"one": [1, 2.5]}, indent=2) + "\n"
    assert sorted(held(tmp_path)) == ["a/b.txt", "a/c.bin", "d.json"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("half")
        assert part.parent == path.parent
        assert path.read_text() == "old"
        part.write_text("new")
    assert held(tmp_path) == {"x": "new"}


def break_off(path: Path, written: str | None, why: type[BaseException] = Broken) -> None:
    """Begin to replace a file, and fail."""
    with replacing(path) as part:
        if written is not None:
            part.write_text(written)
        raise why


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("begun", [True, False])
def test_a_failure_leaves_what_was_there(tmp_path: Path, old: str | None, begun: bool) -> None:
    path = tmp_path / "x"
    if old is not None:
        path.write_text(old)
    with pytest.raises(Broken):
        break_off(path, "half" if begun else None)
    assert held(tmp_path) == ({} if old is None else {"x": old})


def test_what_is_not_json_leaves_what_was_there(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert held(tmp_path) == {"x.json": "1\n"}


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    with pytest.raises(KeyboardInterrupt):
        break_off(tmp_path / "x", "half", KeyboardInterrupt)
    assert held(tmp_path) == {"x": "old"}


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(TraceError, match=r"cannot write to .*folder': it is there and is not a regular file; name another"):
        write_text(tmp_path / "folder", "x")
    assert (tmp_path / "folder").is_dir()
    assert held(tmp_path) == {}


def test_a_device_is_not_replaced_by_a_file() -> None:
    with pytest.raises(TraceError, match=r"'/dev/null': it is there and is not a regular file"):
        write_text("/dev/null", "x")
    assert Path("/dev/null").is_char_device()


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TraceError, match="not a regular file"):
        write_text(tmp_path / "pipe", "x")
    assert (tmp_path / "pipe").is_fifo()


def write_file(path: str | Path) -> None:
    """Replace a file; the block must not be begun where nothing can be written."""
    with replacing(path):
        raise AssertionError("not reached")


def write_folder(path: str | Path) -> None:
    """Replace a folder, likewise."""
    with replacing_folder(path):
        raise AssertionError("not reached")


def write_kept_folder(path: str | Path) -> None:
    """Replace a folder whose failure would be kept, likewise."""
    with replacing_folder(path, keep=True):
        raise AssertionError("not reached")


WRITERS = (write_file, write_folder, write_kept_folder)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file/below", "Not a directory"),
        ("file/far/below", "Not a directory"),
        ("n" * 256, "File name too long"),
        ("new/" + "n" * 256, "File name too long"),
        ("n" * 256 + "/below", "File name too long"),
        ("new/a/" + "n" * 256 + "/below", "File name too long"),
        ("/".join("deep" * 50 for _ in range(30)), "File name too long"),
        ("loop/below", "Too many levels of symbolic links"),
        ("zero\0byte", "embedded null byte"),
        ("/proc/synera", "No such file or directory|Permission denied|Read-only file system|Operation not permitted"),
        ("/proc/synera/below", "No such file or directory|Permission denied|Read-only file system|Operation not permitted"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_named_before_the_work(
    tmp_path: Path, write: Callable[[str | Path], None], place: str, reason: str
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(TraceError, match=rf"^cannot write to .*: \[?({reason}).*; name another path$") as refused:
        write(tmp_path / place)
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "loop"]
    assert held(tmp_path) == {"file": "x"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_that_is_read_only_is_named(tmp_path: Path, write: Callable[[str | Path], None]) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(TraceError, match=r"cannot write to .*locked/x': Permission denied; name another path"):
        write(tmp_path / "locked" / "x")


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127])
def test_the_longest_name_that_the_system_has_can_be_written(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "x")
    for keep in (False, True):
        with replacing_folder(tmp_path / "f" / name, keep=keep) as part:
            (part / "y").write_text(str(keep))
    assert held(tmp_path) == {name: "x", f"f/{name}/y": "True"}


@pytest.mark.parametrize("above", [".", "..", "../.."])
def test_a_folder_that_one_works_in_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_text("x")
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(TraceError, match=r"cannot replace '\.+.*': it holds the folder that you work in; name one below it"):
        write_folder(above)
    assert held(tmp_path) == {"a/b/x": "x"}


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(tmp_path: Path, there: bool) -> None:
    (tmp_path / "far").mkdir()
    if there:
        (tmp_path / "far" / "x").write_text("old")
    (tmp_path / "link").symlink_to(Path("far") / "x")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert held(tmp_path / "far") == {"x": "new"}


def test_a_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    """Others may read it where the user's mask lets them, as with a plain write."""
    (tmp_path / "plain").write_text("x")
    write_text(tmp_path / "whole", "x")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_writers_at_the_same_time_share_no_name(tmp_path: Path) -> None:
    with replacing(tmp_path / "x") as one, replacing(tmp_path / "x") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert held(tmp_path) == {"x": "one"}  # the one that ended last


def test_a_reader_never_meets_a_half_written_file(tmp_path: Path) -> None:
    """Processes write while this one reads; the file is always one of theirs, whole."""
    path = tmp_path / "x.json"
    write_json(path, ["start"] * 2000)
    code = "import sys; from traces.files import write_json\nfor _ in range(60): write_json(sys.argv[1], [sys.argv[2]] * 2000)"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name], cwd=ROOT) for name in ("a", "b", "c")]
    while any(writer.poll() is None for writer in writers):
        values = json.loads(path.read_text())
        assert len(values) == 2000
        assert len(set(values)) == 1
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert json.loads(path.read_text())[0] in {"a", "b", "c"}
    assert list(held(tmp_path)) == ["x.json"]


# ---------------------------------------------------------------- folders


def test_a_folder_replaces_nothing_or_another(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with replacing_folder(tmp_path / "deep" / "f") as part:
            (part / text).write_text(text)
            (part / "sub").mkdir()
            (part / "sub" / "x").write_text("x")
        assert held(tmp_path) == {f"deep/f/{text}": text, "deep/f/sub/x": "x"}


@pytest.mark.parametrize("there", [True, False])
def test_a_failure_leaves_the_old_folder(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "f").mkdir()
        (tmp_path / "f" / "x").write_text("old")

    def break_off() -> None:
        with replacing_folder(tmp_path / "f") as part:
            (part / "x").write_text("half")
            raise Broken

    with pytest.raises(Broken):
        break_off()
    assert held(tmp_path) == ({"f/x": "old"} if there else {})
    assert [p.name for p in tmp_path.iterdir()] == (["f"] if there else [])


def test_the_old_folder_is_put_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "x").write_text("old")
    rename = os.rename

    def broken(source: Path, target: Path) -> None:
        if str(source).endswith(".part"):
            raise OSError("input/output error")
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", broken)
    with pytest.raises(OSError, match="input/output"), replacing_folder(tmp_path / "f") as part:
        (part / "x").write_text("new")
    assert held(tmp_path) == {"f/x": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("why", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize("there", [True, False])
def test_what_failed_can_be_kept_under_a_name_that_is_seen(tmp_path: Path, there: bool, why: type[BaseException]) -> None:
    if there:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "x").write_text("old")

    def break_off(written: bool) -> None:
        with replacing_folder(tmp_path / "run", keep=True) as part:
            if written:
                (part / "log").write_text("half")
            raise why

    old = {"run/x": "old"} if there else {}
    with pytest.raises(why):
        break_off(written=False)
    assert held(tmp_path) == old
    assert len(list(tmp_path.iterdir())) == len(old), "nothing was written, so nothing is kept"
    for kept in (1, 2):
        with pytest.raises(why):
            break_off(written=True)
        parts = [p.name for p in tmp_path.iterdir() if p.name != "run"]
        assert all(re.fullmatch(r"run\.part-[0-9a-f]{8}", name) for name in parts)
        assert held(tmp_path) == old | {f"{name}/log": "half" for name in parts}
        assert len(parts) == kept


def test_a_folder_that_would_have_been_kept_takes_its_place_all_the_same(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with replacing_folder(tmp_path / "run", keep=True) as part:
            assert re.fullmatch(r"run\.part-[0-9a-f]{8}", part.name)
            (part / text).write_text(text)
        assert held(tmp_path) == {f"run/{text}": text}
        assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("killed_before", ["rename 1", "rename 2", "rmtree 1"])
def test_a_killed_process_loses_nothing(tmp_path: Path, killed_before: str) -> None:
    """Killed before a step of the swap, both folders are there, whole, under some name."""
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "x").write_text("old")
    call, number = killed_before.split()
    code = f"""if True:
        import os, shutil, sys
        from pathlib import Path
        from traces.files import replacing_folder
        module = os if {call!r} == "rename" else shutil
        original, calls = getattr(module, {call!r}), []
        def counted(*arguments, **named):
            calls.append(1)
            if len(calls) == {number}:
                os._exit(9)
            return original(*arguments, **named)
        with replacing_folder(sys.argv[1]) as part:
            (part / "x").write_text("new")
            setattr(module, {call!r}, counted)
    """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "f")], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 9
    assert sorted(held(tmp_path).values()) == ["new", "old"]


def test_folders_swapped_at_the_same_time_are_whole(tmp_path: Path) -> None:
    def swap(name: str) -> None:
        for _ in range(40):
            with replacing_folder(tmp_path / "f") as part:
                for i in range(3):
                    (part / str(i)).write_text(name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(swap, "abcd"))
    found = held(tmp_path)
    assert list(found) == ["f/0", "f/1", "f/2"]
    assert len(set(found.values())) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_folder_that_came_in_between_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename
    came = []

    def late(source: Path, target: Path) -> None:
        if str(source).endswith(".part") and not came:
            came.append(shutil.copytree(source, target))
            (target / "x").write_text("other")
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", late)
    with replacing_folder(tmp_path / "f") as part:
        (part / "x").write_text("mine")
    assert came
    assert held(tmp_path) == {"f/x": "mine"}


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(TraceError, match=r"x': it is there and is not a folder"), replacing_folder(tmp_path / "x"):
        raise AssertionError("not reached")
    assert held(tmp_path) == {"x": "x"}


def test_figures_that_are_not_known_are_null_in_json(tmp_path: Path) -> None:
    write_json(
        tmp_path / "a.json",
        {"known": 1.5, "unknown": float("nan"), "deep": [(float("inf"), {"x": -float("inf")}, "NaN", 3, None)]},
    )
    told = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert told == {"known": 1.5, "unknown": None, "deep": [[None, {"x": None}, "NaN", 3, None]]}
