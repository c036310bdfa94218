from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.public_data import public_data
from traces.errors import TraceError
from traces.workload.generators import poisson
from traces.workload.readers import holds_workload, load_workload
from traces.workload.store import save_workload
from traces.workload.trace import Workload

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 23:59:59.6805900,374,44
2023-11-16 23:59:59.6805901,396,109
2023-11-17 00:00:01.1805900,879,55
"""
MOONCAKE = (
    '{"timestamp": 2000, "input_length": 400, "output_length": 6, "hash_ids": [0, 1]}\n'
    '{"timestamp": 2040, "input_length": 36, "output_length": 4, "hash_ids": []}\n\n'
    '{"timestamp": 2277, "input_length": 7, "output_length": 1, "hash_ids": [5]}\n'
)
OWN = "arrival_seconds,context_tokens,generated_tokens\r\n5,10,1\r\n6.5,20,2\r\n"


def read(tmp_path: Path, text: str | bytes, name: str = "trace.csv") -> Workload:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_workload(tmp_path / name)


# ---------------------------------------------------------------- forms


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "holds"),
    [
        (AZURE, True),
        (MOONCAKE, True),
        (OWN, True),
        ("\ufeff" + OWN, True),
        ('{"format": "synera-workload", "broken', True),
        ('{"format": "synera-links"}', False),
        ("0 10\n1 12\n", False),
        ("", False),
        ("\x00\xff", False),
    ],
)
def test_a_workload_is_told_by_what_is_in_it(content: str, holds: bool, packed: bool, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(content.encode(), mtime=0) if packed else content.encode())
    assert holds_workload(tmp_path / "x") is holds


def test_what_cannot_be_read_holds_no_workload(tmp_path: Path) -> None:
    (tmp_path / "cut.gz").write_bytes(gzip.compress(AZURE.encode(), mtime=0)[:20])
    assert not any(holds_workload(path) for path in (tmp_path, tmp_path / "nobody", tmp_path / "cut.gz"))


def test_azure_s_seven_decimals_are_kept_over_midnight(tmp_path: Path) -> None:
    found = read(tmp_path, AZURE, "conv.csv")
    assert found.arrival_seconds == pytest.approx([0.0, 1e-7, 1.5], abs=1e-8)
    assert found.arrival_seconds[1] > 0
    assert found.context_tokens.tolist() == [374, 396, 879]
    assert found.generated_tokens.tolist() == [44, 109, 55]
    assert (found.name, found.seconds) == ("conv", pytest.approx(1.5 * 3 / 2))  # one mean gap after the last
    assert "Azure" in found.source


@pytest.mark.parametrize("packed", [False, True])
def test_mooncake_counts_milliseconds_from_its_first_request(packed: bool, tmp_path: Path) -> None:
    content = MOONCAKE.encode()
    found = read(tmp_path, gzip.compress(content, mtime=0) if packed else content, "m.jsonl.gz" if packed else "m.jsonl")
    assert found.arrival_seconds == pytest.approx([0.0, 0.04, 0.277])
    assert found.context_tokens.tolist() == [400, 36, 7]
    assert found.name == "m"


def test_our_own_csv(tmp_path: Path) -> None:
    found = read(tmp_path, OWN)
    assert found.arrival_seconds.tolist() == [0.0, 1.5]
    assert found.seconds == 3.0
    assert read(tmp_path, "\ufeff" + OWN).same(found)
    assert read(tmp_path, OWN.splitlines()[0] + "\n3,1,1\n").seconds == 1.0  # of one request nothing is known


def test_our_own_json_is_what_was_saved(tmp_path: Path) -> None:
    made = poisson(2.0, 100.0, seed=1)
    save_workload(made, tmp_path / "w.json")
    found = load_workload(tmp_path / "w.json")
    assert found.same(made)
    assert (found.name, found.source) == (made.name, made.source)


# ---------------------------------------------------------------- what is wrong

HEAD = "arrival_seconds,context_tokens,generated_tokens\n"
ANY = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
WRONG: list[tuple[str | bytes, str]] = [
    ("", "its first line is ''"),
    ("a,b,c\n1,2,3\n", "its first line is 'a,b,c'"),
    (HEAD, "there are no requests"),
    (HEAD + "1,2\n", r"line 2: '1,2' is no request: it has 2 cells"),
    (HEAD + "0,1,1\n1,2,x\n", "line 3: '1,2,x' is no request: generated_tokens='x'"),
    (HEAD + "0,1,1\n1,-2,1\n", "line 3: .*context_tokens='-2'"),
    (HEAD + "0,1,1\n1,1.5,1\n", r"line 3: .*context_tokens='1\.5'"),
    (HEAD + "0,1,99999999\n", "line 2: .*generated_tokens="),
    (HEAD + "soon,1,1\n", "line 2: .*arrival_seconds='soon'"),
    (HEAD + "nan,1,1\n", "line 2: .*arrival_seconds=nan"),
    (HEAD + "inf,1,1\n", "line 2: .*arrival_seconds=inf"),
    (HEAD + "5,1,1\n\n4,1,1\n", "line 4: '4,1,1' came before the request"),
    (HEAD + "0,1,1\n1e9,1,1\n", "line 3: .*came 1e.09 s after the first"),
    (ANY + "yesterday,1,1\n", "line 2: .*TIMESTAMP='yesterday'"),
    (ANY + "2023-11-16 18:15:46.x,1,1\n", "line 2: .*TIMESTAMP="),
    (ANY + "2023-13-16 18:15:46.1,1,1\n", "line 2: .*TIMESTAMP="),
    ('{"timestamp": 1}\n', "line 1: .*it has no input_length"),
    ('{"timestamp": 0, "input_length": 1, "output_length": 1}\n[1]\n', "line 2: .*not an object"),
    ('{"timestamp": 0, "input_length": 1, "output_length": 1}\n{"times\n', "line 2: .*is no request"),
    ('{"timestamp": "0", "input_length": 1, "output_length": 1}\n', "line 1: .*timestamp='0'"),
    ('{"timestamp": 0, "input_length": true, "output_length": 1}\n', "line 1: .*input_length=True"),
    ('{"timestamp": 0, "input_length": 1, "output_length": 1.5}\n', r"line 1: .*output_length=1\.5"),
    (b"\xff\xfe" + HEAD.encode(), "not text in UTF-8"),
    (gzip.compress(b"x" * 1000, mtime=0)[:20], "cannot be unpacked"),
    ('{"format": "synera-workload", "version": 2}', "is not a WorkloadFile: version"),
    ('{"format": "synera-workload", "version": 1, "more": 1}', "is not a WorkloadFile"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_what_is_wrong_is_named_with_file_line_and_value(text: str | bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=said) as error:
        read(tmp_path, text)
    assert str(tmp_path / "trace.csv") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_saved_workload_with_a_value_out_of_range_is_named(tmp_path: Path) -> None:
    stated = {"format": "synera-workload", "version": 1, "name": "x", "source": "y", "seconds": 1.0}
    stated |= {"arrival_seconds": [0.0, 2.0], "context_tokens": [1, 1], "generated_tokens": [1, 1]}
    with pytest.raises(TraceError, match=r"trace\.csv: workload 'x': arrival_seconds=2\.0"):
        read(tmp_path, json.dumps(stated))


def test_a_file_that_is_missing_or_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TraceError, match="no workload at"):
        load_workload(tmp_path / "none.csv")
    monkeypatch.setattr("traces.workload.readers._LARGEST", 500)
    with pytest.raises(TraceError, match="unpacked it has more than the 500 bytes"):
        read(tmp_path, gzip.compress(b"x" * 100_000, mtime=0))


# ---------------------------------------------------------------- real files


@pytest.mark.parametrize(
    ("path", "rows", "span", "rate", "cv", "context", "generated"),
    [
        ("azure2023/AzureLLMInferenceTrace_conv.csv", 19366, 3502, 5.53, 1.09, (1155, 1020, 4083), (211, 129, 451)),
        ("azure2023/AzureLLMInferenceTrace_code.csv", 8819, 3436, 2.57, 13.2, (2048, 1469, 7303), (28, 13, 90)),
        ("mooncake/synthetic_trace.jsonl.gz", 3993, 1022, 3.91, 1.01, (15325, 11587, 48905), (149, 69, 519)),
    ],
)
def test_real_traces_have_the_statistics_that_are_stated(
    path: str, rows: int, span: float, rate: float, cv: float, context: tuple[float, ...], generated: tuple[float, ...]
) -> None:
    found = load_workload(public_data(f"workload/{path}")).figures
    assert (found.requests, round(found.span_seconds)) == (rows, span)
    assert found.rate == pytest.approx(rate, abs=0.006)
    assert found.gap_cv == pytest.approx(cv, rel=0.01)
    for spread, stated in ((found.context, context), (found.generated, generated)):
        assert np.round([spread.mean, spread.p50, spread.p95]) == pytest.approx(stated)
