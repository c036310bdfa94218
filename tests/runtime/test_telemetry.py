"""The file of decisions: lines that are JSON, whole or not there, and that never cost an answer."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import telemetry
from runtime.errors import SettingError
from runtime.telemetry import AppendFile, Begun, DecisionLog, Ended, Settled, file_before, line, plain
from tests.support.records import draft, record, verdict

ROOT = Path(__file__).resolve().parents[2]


def begun(answer: int = 1, **changes: Any) -> Begun:
    given: dict[str, Any] = {
        **{"run": "r", "time": "2026-01-01T00:00:00+00:00", "system": "synera", "schema_hash": "h", "controller": "always"},
        **{"preference": {"latency": 0.5}, "fingerprints": {"slm": "f"}, "seed": 3, "link": "real"},
        **{"prompt_tokens": 7, "prompt_sha256": telemetry.prompt_hash("a prompt")},
    }
    return Begun(answer=answer, **(given | changes))


def lines(path: Path) -> list[dict[str, Any]]:
    """What every reader of JSON makes of the file, which ends with a line end."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    content = path.read_bytes()
    assert content.endswith(b"\n")
    assert content.isascii()
    return [json.loads(each, parse_constant=refuse) for each in content.split(b"\n")[:-1]]


def test_a_line_holds_the_whole_record_but_for_the_arrays() -> None:
    settled = Settled(answer=2, number=1, record=record(draft((0.9, 0.5)), verdict(1, load=math.inf), error="why\n\u2028"))
    found = json.loads(line(settled))
    assert line(settled).count(b"\n") == 1
    assert (found["event"], found["answer"], found["number"]) == ("step", 2, 1)
    written = found["record"]
    assert written["knobs"]["offload_budget"] == 0.0
    assert written["cost"]["joules"] == 0.5
    assert [token["confidence"] for token in written["draft"]["tokens"]] == [0.9, 0.5]
    token = written["draft"]["tokens"][0]
    assert set(token) == {"token", "exit_index", "confidence", "margin", "entropy", "runner_up", "proposal"}
    assert token["proposal"] is None
    assert (written["verdict"]["accepted"], written["verdict"]["load"]) == (1, "Infinity")
    assert (written["error"], written["committed"], written["committed_at"]) == ("why\n\u2028", [0, 1], 1.0)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.float32("nan"), "NaN"),
        (True, True),
        ("ü\u2028\x00", "ü\u2028\x00"),
        ("a\udcffb", "a\\udcffb"),
        ({"a": (1, None)}, {"a": [1, None]}),
    ],
)
def test_values_have_a_plain_form(value: object, wanted: object) -> None:
    assert plain(value) == wanted
    assert type(plain(value)) is type(wanted)


def test_a_value_without_one_is_a_bug_that_is_named() -> None:
    with pytest.raises(TypeError, match="a set cannot be written"):
        plain({"a": {1}})


@pytest.mark.parametrize("quality", [1.5, -0.1, math.inf])
def test_an_end_of_a_quality_that_there_is_not_is_refused(quality: float) -> None:
    with pytest.raises(SettingError, match="quality="):
        Ended(answer=1, steps=1, quality=quality, metrics={})


def test_the_file_is_its_owner_s_alone_and_no_other_file_is_written_to(tmp_path: Path) -> None:
    file = AppendFile(tmp_path / "log")
    file.write(b"kept\n")
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        AppendFile(tmp_path / "log")
    file.close()
    file.close()
    assert (tmp_path / "log").read_bytes() == b"kept\n"


def test_what_is_written_survives_a_kill_at_once(tmp_path: Path) -> None:
    code = f"""if True:
        import os, signal
        from pathlib import Path
        from runtime.telemetry import AppendFile
        file = AppendFile(Path({str(tmp_path / "log")!r}))
        for number in range(100):
            file.write(b"%d\\n" % number)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "log").read_text().split() == [str(number) for number in range(100)]


def test_a_disk_that_is_full_leaves_whole_records_and_one_warning(tmp_path: Path) -> None:
    """The system itself refuses: no file of that process may have more than 1,000 bytes."""
    code = f"""if True:
        import resource
        from pathlib import Path
        from runtime.telemetry import AppendFile
        file = AppendFile(Path({str(tmp_path / "log")!r}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        for _ in range(5):
            file.write(b"x" * 299 + b"\\n")
        assert file.lost == 2, file.lost
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        file.write(b"again\\n")
        assert file.lost == 2
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert done.stderr.endswith("; what cannot be written there is left out\n")
    assert (tmp_path / "log").read_bytes() == (b"x" * 299 + b"\n") * 3 + b"again\n"


def test_a_file_that_is_closed_refuses_and_counts_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = AppendFile(tmp_path / "log")
    file.close()
    with caplog.at_level(logging.WARNING):
        file.write(b"late\n")
        file.write(b"later\n")
    assert file.lost == 2
    assert len(caplog.records) == 1
    assert (tmp_path / "log").read_bytes() == b""


def test_a_log_is_two_files_of_bounded_size_the_newer_lines_in_the_second(tmp_path: Path) -> None:
    path, most = tmp_path / "decisions.jsonl", 5000
    log = DecisionLog(path, most)
    log.write(begun())
    for number in range(1, 21):
        log.write(Settled(answer=1, number=number, record=record()))
    log.close()
    found = [each["number"] for file in (file_before(path), path) for each in lines(file) if each["event"] == "step"]
    assert found == list(range(found[0], 21))
    assert 1 < found[0] < 20, "the oldest are gone"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["decisions.before.jsonl", "decisions.jsonl"]
    assert all(0 < p.stat().st_size <= most for p in tmp_path.iterdir())
    assert log.lost == 0


def test_where_the_full_file_cannot_be_put_aside_it_stays_and_lines_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "decisions.jsonl"
    log = DecisionLog(path, 3000)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "no")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        for number in range(1, 11):
            log.write(Settled(answer=1, number=number, record=record()))
    lost = log.lost
    assert [each["number"] for each in lines(path)] == list(range(1, 11 - lost))
    assert 0 < lost < 10
    log.write(Settled(answer=1, number=11, record=record()))  # and it goes on once it can
    assert log.lost == lost
    assert [each["number"] for each in lines(path)] == [11]
    log.close()


def test_devices_side_by_side_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    log = DecisionLog(path)

    def work(answer: int) -> None:
        for number in range(1, 41):
            log.write(Settled(answer=answer, number=number, record=record(error="x" * answer)))

    threads = [threading.Thread(target=work, args=(answer,)) for answer in range(1, 9)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    log.close()
    found = [(each["answer"], each["number"]) for each in lines(path)]
    assert sorted(found) == [(answer, number) for answer in range(1, 9) for number in range(1, 41)]
    assert all([n for a, n in found if a == answer] == list(range(1, 41)) for answer in range(1, 9))
