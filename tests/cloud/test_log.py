from __future__ import annotations

import json
import logging
import subprocess
import sys
from io import StringIO

import pytest

from cloud.log import KeyValueFormatter, fields
from tests.test_imports import ROOT


def line_of(message: str, *arguments: object, **values: object) -> str:
    """What the formatter makes of an event."""
    logger, stream = logging.Logger("room.module"), StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(KeyValueFormatter())
    logger.addHandler(handler)
    try:
        raise ZeroDivisionError("planted")
    except ZeroDivisionError:
        logger.error(message, *arguments, exc_info=bool(values.pop("trace", False)), extra=fields(**values))
    return stream.getvalue()


def test_an_event_is_one_line_of_keys_and_values() -> None:
    line = line_of("started", address="[::1]:5", model="a b", tls=False, placement="float32 on cpu")
    time, rest = line.split(" ", 1)
    assert time.startswith("time=2")
    assert rest == (
        'level=error logger=room.module event=started address="[::1]:5" model="a b" tls=False placement="float32 on cpu"\n'
    )


@pytest.mark.parametrize(
    "value", ["two\nlines", "a\r\x1b[31m\x00", 'quoted " \\', "key=value", "", "ä\u2028\ud800", "x" * 9000]
)
def test_no_value_breaks_the_line_or_acts_on_a_terminal(value: str) -> None:
    line = line_of("said", why=value)
    assert line.count("\n") == 1
    assert line.rstrip("\n").isprintable()
    assert line.isascii()
    assert json.loads(line.rpartition(" why=")[2]) == value if "x" not in value else f"why={value}" in line


def test_a_trace_is_on_the_line_and_a_long_value_is_cut_in_its_middle() -> None:
    line = line_of("failed after %d", 3, trace=True, why="a" * 50_000 + "b" * 50_000)
    assert line.count("\n") == 1
    assert len(line) < 15_000
    assert 'event="failed after 3"' in line
    assert f"{'a' * 5000} ... {'b' * 5000}" in line
    trace = json.loads(line.rpartition(" trace=")[2])
    assert trace.startswith("Traceback (most recent call last):\n")
    assert trace.endswith("ZeroDivisionError: planted")


@pytest.mark.parametrize(("level", "written"), [("info", ["a", "b"]), ("warning", ["b"])])
def test_configured_it_goes_to_standard_error_alone(level: str, written: list[str]) -> None:
    code = f"""if True:
        import logging
        from cloud.log import configure
        logging.basicConfig(format="%(message)s")
        configure({level!r})
        logging.getLogger("grpc").info("a")
        logging.getLogger("cloud").warning("b")
        logging.getLogger("cloud").debug("c")
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    assert [line.rpartition(" event=")[2] for line in done.stderr.splitlines()] == written
