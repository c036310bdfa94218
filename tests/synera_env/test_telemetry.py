"""What is written down of live answers comes back as it was; what is damaged is named, with its line."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runtime.sampling import TOTAL, Proposal
from runtime.session import Ahead, Cost
from runtime.synera.chunk import ChunkRecord, Draft, DraftToken, Verdict
from runtime.synera.knobs import Knobs
from runtime.telemetry import Begun, DecisionLog, Ended, Settled, file_before, line
from synera_env import Preference, TraceError
from synera_env import telemetry as reading
from synera_env.metrics import episode_metrics
from synera_env.telemetry import DECISIONS, LoggedAnswer, read_run
from tests.runtime.test_telemetry import begun
from tests.support.records import draft, record, verdict

PREFERENCE = Preference(latency=0.3, cost=0.0)
ANY = st.floats(width=64)
SHARE = st.floats(0, 1)
COUNT = st.integers(0, 2**40)


def same(one: Any, other: Any) -> bool:
    """Equal, NaN to NaN; what is read back has empty arrays. By the fields that there are, not by those that are written."""
    if is_dataclass(one):
        return type(one) is type(other) and all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and not other.size
    if isinstance(one, tuple):
        return isinstance(other, tuple) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return bool(type(one) is type(other) and one == other)


def _tokens() -> st.SearchStrategy[DraftToken]:
    proposals = st.none() | st.sampled_from([Proposal((3,), (TOTAL,)), Proposal((7, 5), (TOTAL - 9, 9))])
    sketch = st.just(np.ones(16, np.float32))
    return st.builds(DraftToken, COUNT, st.integers(0, 3), ANY, ANY, ANY, COUNT, sketch, proposal=proposals)


def _records() -> st.SearchStrategy[ChunkRecord]:
    drafts = st.builds(Draft, st.lists(_tokens(), min_size=1, max_size=4).map(tuple), SHARE, ANY)
    verdicts = st.builds(Verdict, COUNT, COUNT, ANY, ANY, ANY, ANY, COUNT, COUNT, COUNT, ANY)
    costs = st.builds(Cost, ANY, ANY, ANY, ANY, COUNT, ANY, COUNT, COUNT)
    knobs = st.builds(Knobs, SHARE, SHARE, st.integers(-1, 3), SHARE, st.integers(1, 8), SHARE, SHARE)
    guess = st.lists(st.none() | COUNT, max_size=4).map(tuple)
    aheads = st.builds(Ahead, guess, SHARE, st.booleans(), COUNT, COUNT, ANY, ANY, ANY)
    return st.builds(
        ChunkRecord,
        knobs=knobs,
        cost=costs,
        committed=st.lists(COUNT, min_size=1, max_size=9).map(tuple),
        committed_at=st.floats(0, 1e6),
        offloaded=st.booleans(),
        judged=COUNT,
        accepted=COUNT,
        ahead=st.none() | aheads,
        error=st.none() | st.text() | st.sampled_from(["NaN", "Infinity", "null", "\u2028\x00\x1b[2J", "🙂\n\r", '"}{']),
        draft=drafts,
        verdict=st.none() | verdicts,
    )


def written(path: Path, records: Sequence[Any], quality: float = 0.5, **told: Any) -> Path:
    """A file of one answer, the metrics stated as the environment has them."""
    log = DecisionLog(path)
    log.write(begun(preference=asdict(PREFERENCE), **told))
    for number, each in enumerate(records, 1):
        log.write(Settled(answer=1, number=number, record=each))
    metrics = asdict(episode_metrics(records, quality, PREFERENCE))
    log.write(Ended(answer=1, steps=len(records), quality=quality, metrics=metrics))
    log.close()
    assert log.lost == 0
    return path


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(records=st.lists(_records(), min_size=1, max_size=4), quality=SHARE | st.just(math.nan))
@example(records=[record(error="NaN"), record(draft((0.5,)), verdict(load=math.inf))], quality=math.nan)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of metrics of infinite figures
def test_records_and_their_metrics_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, records: list[ChunkRecord], quality: float
) -> None:
    path = tmp_path_factory.mktemp("log") / DECISIONS
    (answer,) = read_run(written(path, records, quality)).answers
    assert answer.whole
    assert same(tuple(records), answer.records)
    assert answer.preference == PREFERENCE
    metrics = episode_metrics(records, quality, PREFERENCE)
    assert same(metrics, answer.metrics())
    assert answer.ended is not None
    assert same(
        tuple(asdict(metrics).items()), tuple((k, type(v)(answer.ended.metrics[k])) for k, v in asdict(metrics).items())
    )


def test_the_comparison_itself() -> None:
    one = record(draft((0.5,)), verdict())
    assert same(one, replace(one)) is False  # arrays that came back would be no empty ones
    bare = replace(one, draft=replace(one.draft, tokens=()))
    assert same(bare, replace(bare))
    assert not same(bare, replace(bare, cost=replace(bare.cost, joules=0.25)))
    assert not same(bare, replace(bare, committed_at=1))


def test_what_the_beginning_says_comes_back_too(tmp_path: Path) -> None:
    stated = begun(preference=asdict(PREFERENCE), prompt="ü\n", controller="[bold]")
    path = written(tmp_path / DECISIONS, [record()], prompt="ü\n", controller="[bold]")
    assert [each.begun for each in read_run(path).answers] == [stated]
    assert [each.begun for each in read_run(tmp_path).answers] == [stated]  # by its folder as by its file


@dataclass(frozen=True, slots=True)
class Further:
    guessed: tuple[int, ...]
    hit: bool
    seconds_saved: float


@dataclass(frozen=True, slots=True)
class MoreKnobs(Knobs):
    further: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewerRecord(ChunkRecord):
    knobs: MoreKnobs
    beyond: Further | None = None


def _newer(of: ChunkRecord, further: float, beyond: Further | None) -> NewerRecord:
    given = {f.name: getattr(of, f.name) for f in fields(of)}
    return NewerRecord(**given | {"knobs": MoreKnobs(further=further), "beyond": beyond})


def test_a_field_that_a_record_gains_needs_no_line_of_code_and_files_of_before_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = written(tmp_path / "older.jsonl", [record()])
    records = (_newer(record(), 0.25, Further((3, 4), True, math.nan)), _newer(record(), 1.0, None))
    newer = written(tmp_path / "newer.jsonl", records)
    monkeypatch.setitem(reading.RECORDS, "synera", NewerRecord)
    assert same(records, read_run(newer).answers[0].records)
    (before,) = read_run(older).answers[0].records
    assert (before.knobs.further, before.beyond) == (1.0, None)
    monkeypatch.undo()
    with pytest.raises(TraceError, match=r"newer\.jsonl, line 2: record\.knobs\.further"):
        read_run(newer)


# ---------------------------------------------------------------- what may happen to a file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path / DECISIONS, [record(draft(), verdict()), record(error="lost"), record()])


@pytest.mark.parametrize("left", [1, 40, -1, -30])
def test_a_last_line_that_is_cut_off_is_left_out_and_said(path: Path, left: int) -> None:
    *whole, last = path.read_bytes().split(b"\n")[:-1]
    path.write_bytes(b"\n".join([*whole, last[:left]]))
    found = read_run(path)
    assert found.torn
    assert len(found.answers[0].records) == 3
    assert not found.answers[0].whole
    with pytest.raises(TraceError, match="answer 1 is not whole"):
        found.answers[0].metrics()


def test_a_line_that_was_lost_leaves_an_answer_that_is_not_whole(path: Path) -> None:
    first, _, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"".join(others))
    (answer,) = read_run(path).answers
    assert (len(answer.records), answer.whole) == (2, False)


def test_an_answer_that_was_given_up_is_not_whole(path: Path) -> None:
    head = path.read_bytes().splitlines(keepends=True)[:2]
    path.write_bytes(b"".join(head) + line(Ended(answer=1, steps=1, metrics={}, error="KeyboardInterrupt")))
    (answer,) = read_run(path).answers
    assert not answer.whole
    assert math.isnan(answer.quality)
    assert answer.ended is not None
    assert answer.ended.error == "KeyboardInterrupt"


def test_lines_of_an_answer_whose_beginning_is_gone_are_left_out_and_counted(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    file_before(path).write_bytes(line(begun(7)) + lines[0])
    path.write_bytes(b"".join(lines[2:]) + line(Ended(answer=7, steps=1, metrics={})) + lines[-1].replace(b'r":1', b'r":9'))
    found = read_run(path)
    assert [each.begun.answer for each in found.answers] == [7, 1]
    assert (len(found.answers[1].records), found.headless) == (2, 1)


DROP = object()


def changed(place: int, /, **changes: Any) -> Any:
    """Set fields of a line, `__` for a dot; `DROP` takes one away."""

    def change(lines: list[bytes]) -> list[bytes]:
        stated = json.loads(lines[place])
        for name, value in changes.items():
            *above, last = name.split("__")
            part = stated
            for each in above:
                part = part[int(each)] if isinstance(part, list) else part[each]
            if value is DROP:
                del part[last]
            else:
                part[last] = value
        lines[place] = json.dumps(stated).encode()
        return lines

    return change


def _raw(number: int, content: bytes) -> Any:
    def change(lines: list[bytes]) -> list[bytes]:
        lines[number] = content
        return lines

    return change


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (_raw(1, b""), "line 2: Invalid JSON"),
        (_raw(1, b"{}"), "line 2: event: Field required"),
        (_raw(1, b"[]"), "line 2: "),
        (_raw(1, b"null"), "line 2: "),
        (_raw(1, bytes(range(128, 256))), "line 2: "),
        (_raw(1, b"[" * 100_000), "line 2: Invalid JSON: recursion limit"),
        (_raw(1, b'{"event":"step","answer":' + b"9" * 5000 + b"}"), "line 2: "),
        (_raw(2, b'{"event":"\\ud800","answer":1}'), "line 3: Invalid JSON"),
        (changed(0, format_version=2), "line 1: it is of format 2, this version reads 1"),
        (changed(0, system="tea"), "line 1: system 'tea' is not known; known are synera"),
        (changed(0, preference={"taste": 1.0}), "line 1: preference has no field 'taste'"),
        (changed(0, preference={"latency": -1.0}), "line 1: "),
        (changed(0, preference={"latency": "much"}), "line 1: preference.latency"),
        (changed(0, answer=True), "line 1: answer"),
        (changed(0, run=DROP), "line 1: run: Field required"),
        (changed(0, more=1), "line 1: more: Unexpected"),
        (changed(1, event="stop"), "line 2: 'stop' is no event; known are begin, step and end"),
        (changed(1, number="1"), "line 2: number"),
        (changed(2, number=1), "line 3: step 1 of answer 1 comes after step 1"),
        (changed(1, record__knobs__draft_length=99), "line 2: record.knobs: draft_length=99 is outside 1..8"),
        (changed(1, record__knobs__exit_margin="NaN"), "line 2: record.knobs: exit_margin=nan is outside 0..1"),
        (changed(1, record__cost__joules="1"), "line 2: record.cost.joules"),
        (changed(1, record__cost__uplink_bytes=10**400), "line 2: record.cost.uplink_bytes"),
        (changed(1, record__cost__uplink_bytes=1.5), "line 2: record.cost.uplink_bytes"),
        (changed(1, record__draft__tokens__0__confidence=DROP), "line 2: record.draft.tokens.0.confidence: Field required"),
        (changed(1, record__draft__tokens__0__sketch=[1.0]), "line 2: record.draft.tokens.0.sketch: Unexpected"),
        (changed(1, record__offloaded=1), "line 2: record.offloaded"),
        (changed(1, record="\x1b[31m"), "line 2: record"),
        (changed(4, quality=7.0), "line 5: quality=7.0 must be a number in 0..1"),
        (changed(4, quality="Infinity"), "line 5: quality=inf"),
        (changed(4, steps=2), "line 5: answer 1 ends after 2 steps, but its step 3 is there"),
        (lambda lines: [*lines[:1], *lines], "line 2: answer 1 begins a second time"),
        (lambda lines: [*lines, lines[-1]], "line 6: answer 1 has ended before"),
        (lambda lines: [lines[0], line(Ended(answer=1, steps=0, metrics={}))[:-1]], "line 2: answer 1 is done without a token"),
    ],
)
def test_what_cannot_be_there_is_one_clear_line_with_its_number(path: Path, change: Any, wrong: str) -> None:
    path.write_bytes(b"".join(each + b"\n" for each in change(path.read_bytes().splitlines())))
    with pytest.raises(TraceError) as error:
        read_run(path)
    said = str(error.value)
    assert f"{DECISIONS}, {wrong}" in said
    assert said.isprintable()
    assert len(said) < 600


def _damages(seed: int, content: bytes) -> Iterator[bytes]:
    """Ways in which a file may come to harm."""
    rng = random.Random(seed)
    for _ in range(150):
        at, end = sorted(rng.randrange(len(content)) for _ in range(2))
        yield content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
        yield content[:at] + content[end:]
        yield content[:end] + content[at:]
        yield content[:at] + rng.choice([b"NaN", b'"', b"{", b"null", b"-", b"1e999", b"\n", b"\\ud800"]) + content[at:]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_damage_of_any_kind_is_a_trace_error_or_no_harm(path: Path) -> None:
    content, refused = path.read_bytes(), 0
    for damaged in _damages(1, content):
        path.write_bytes(damaged)
        found = _read(path)
        if isinstance(found, str):
            assert f"{DECISIONS}, line " in found
            refused += 1
            continue
        for each in found:
            if each.whole:
                each.metrics()
    assert refused > 300


def _read(path: Path) -> tuple[LoggedAnswer, ...] | str:
    """The answers, or what is wrong."""
    try:
        return read_run(path).answers
    except TraceError as error:
        return str(error)


@pytest.mark.parametrize("name", ["missing", "folder/below"])
def test_a_run_that_is_not_there_names_the_way_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(TraceError, match=r"no live run at .*synera deploy --log FOLDER writes one"):
        read_run(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceError, match="no live run at"):
        read_run(tmp_path / "empty")


def test_a_run_that_has_just_begun_has_no_answers(tmp_path: Path) -> None:
    DecisionLog(tmp_path / DECISIONS).close()
    assert read_run(tmp_path).answers == ()


def test_begun_is_what_the_file_says_it_is() -> None:
    """The names that users of `jq` rely on."""
    stated = json.loads(line(begun()))
    assert set(stated) == {f.name for f in fields(Begun)}
    assert (stated["event"], stated["format_version"]) == ("begin", 1)
