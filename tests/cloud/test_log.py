from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
from io import StringIO

import pytest

from cloud.log import JsonFormatter, KeyValueFormatter, LimitedHandler, bind, fields
from tests.test_imports import ROOT


def line_of(message: str, *arguments: object, form: type[logging.Formatter] = KeyValueFormatter, **values: object) -> str:
    """What a formatter makes of an event."""
    logger, stream = logging.Logger("room.module"), StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(form())
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


# ---------------------------------------------------------------- JSON


def test_json_has_the_same_keys_and_keeps_numbers() -> None:
    values = {"n": 3, "x": 0.5, "on": True, "none": None, "bad": float("nan"), "far": float("inf"), "what": [1]}
    line = line_of("said %s", "so", form=JsonFormatter, **values)
    assert line.count("\n") == 1
    read = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert list(read)[:4] == ["time", "level", "logger", "event"]
    assert read["event"] == "said so"
    assert {key: read[key] for key in values} == values | {"bad": "nan", "far": "inf", "what": "[1]"}
    keys = re.findall(r"(?:^| )(\w+)=", line_of("said", **values))
    assert keys == list(read)


@pytest.mark.parametrize("value", ["two\nlines", "a\r\x1b[31m\x00", 'quoted " \\', "ä\u2028\ud800", "x" * 50_000])
def test_json_is_a_line_of_ascii_whatever_the_value(value: str) -> None:
    line = line_of("said", form=JsonFormatter, why=value)
    assert line.count("\n") == 1
    assert line.rstrip("\n").isprintable()
    assert line.isascii()
    assert len(line) < 15_000
    assert json.loads(line)["why"] == value or "x" in value


def test_a_trace_is_in_the_object() -> None:
    read = json.loads(line_of("failed", form=JsonFormatter, trace=True))
    assert read["trace"].endswith("ZeroDivisionError: planted")


# ---------------------------------------------------------------- what is bound, and how much is written


def test_what_is_bound_to_a_task_is_in_its_events_and_those_of_the_work_it_starts() -> None:
    async def work() -> object:
        return fields(a=1)["fields"]

    async def call(number: int) -> list[object]:
        bind(request=number)
        await asyncio.sleep(0)
        return [await work(), await asyncio.create_task(work())]

    async def live() -> list[list[object]]:
        return await asyncio.gather(call(1), call(2))

    assert asyncio.run(live()) == [[{"a": 1, "request": n}] * 2 for n in (1, 2)]
    assert fields(a=1) == {"fields": {"a": 1}}


class Flood:
    """A logger with a limit of 3 lines a second, on a clock of the test's."""

    def __init__(self) -> None:
        self.seconds, self.stream = 0.0, StringIO()
        self.handler = LimitedHandler(3, lambda: self.seconds)
        self.handler.setStream(self.stream)
        self.handler.setFormatter(JsonFormatter())
        self.logger = logging.Logger("room.module")
        self.logger.addHandler(self.handler)

    def refuse(self, times: int) -> None:
        for number in range(times):
            self.logger.warning("refused %d", number)

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(each) for each in self.stream.getvalue().splitlines()]


def test_a_flood_is_cut_and_counted() -> None:
    flood = Flood()
    flood.refuse(1000)
    flood.logger.error("another kind is not held up by it")
    assert [each["event"] for each in flood.lines()] == [
        *("refused 0", "refused 1", "refused 2"),
        "another kind is not held up by it",
    ]
    flood.seconds = 1.0
    flood.refuse(2)
    told, *after = flood.lines()[4:]
    assert told.items() >= {"event": "lines left out", "of": "refused 0", "lines": 997, "level": "warning"}.items()
    assert [each["event"] for each in after] == ["refused 0", "refused 1"]
    flood.seconds = 2.0
    flood.refuse(3)
    assert len(flood.lines()) == 10  # there was nothing to tell


def test_what_was_left_out_is_told_at_the_end() -> None:
    flood = Flood()
    flood.refuse(5)
    flood.handler.close()
    assert flood.lines()[-1].items() >= {"event": "lines left out", "lines": 2}.items()
    assert len(flood.lines()) == 4


def test_a_flood_costs_no_memory() -> None:
    """What differs in each line is no kind of its own."""
    flood = Flood()
    for number in range(1000):
        flood.logger.warning(f"refused {number}")
    assert len(flood.handler._places) == 1
    assert len(flood.lines()) == 3
