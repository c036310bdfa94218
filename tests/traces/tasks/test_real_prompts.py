"""Scores and prompt files on public task sets, where a copy of them is at hand: in $SYNERA_PROMPTS, or beside this checkout.

Expected there: gsm8k/train.jsonl.gz, nq_open/NQ-open.dev.jsonl, bbh/*.json, spec_bench/question.jsonl, as published.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from traces.tasks import text_scores
from traces.tasks.scoring import check_references
from traces.tasks.splits import Prompt, own_prompts

FOLDER = Path(os.environ.get("SYNERA_PROMPTS", Path(__file__).parents[4] / "shared" / "data" / "dev" / "prompts"))


def rows(name: str) -> list[dict[str, Any]]:
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"no {path}; name a folder that holds it with SYNERA_PROMPTS")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.decode().splitlines()]


def written(path: Path, prompts: list[Prompt]) -> Path:
    lines = [json.dumps({"prompt": p.text, "reference": p.reference, "kind": p.kind}) for p in prompts]
    path.write_text("\n".join(lines))
    return path


def test_gsm8k_s_own_solutions_have_the_number_that_its_authors_read() -> None:
    """By the pattern of the published evaluation; and said in words, the number is found as well."""
    found = rows("gsm8k/train.jsonl.gz")
    assert len(found) > 7000
    for row in found:
        stated = re.search(r"#### (\-?[0-9\.\,]+)", row["answer"])
        assert stated
        assert text_scores.last_number(row["answer"]) == Decimal(stated[1].replace(",", ""))
        steps = row["answer"].partition("####")[0]
        assert text_scores.final_number(f"{steps}So the answer is {stated[1]}.", row["answer"]) == 1.0
    check_references("final-number", [Prompt(row["question"], "gsm8k", row["answer"]) for row in found])


def test_nq_open_s_answers_are_right_by_both_of_squad_s_scores() -> None:
    found = rows("nq_open/NQ-open.dev.jsonl")
    assert len(found) > 3000
    for row in found:
        for answer in row["answer"]:
            assert text_scores.exact_match(f" {answer.upper()}. ", answer) == 1.0
            assert text_scores.token_f1(answer, answer) == 1.0
    right = sum(text_scores.exact_match(found[i]["answer"][0], found[i - 1]["answer"][0]) for i in range(len(found)))
    assert right < 0.01 * len(found), "another question's answer is wrong"


def test_prompts_of_many_lines_come_through_a_file_as_they_were(tmp_path: Path) -> None:
    if not (FOLDER / "bbh").is_dir():
        pytest.skip(f"no {FOLDER / 'bbh'}; name a folder that holds it with SYNERA_PROMPTS")
    prompts = {
        row["input"]: Prompt(row["input"], path.stem, row["target"])
        for path in sorted((FOLDER / "bbh").glob("*.json"))
        for row in json.loads(path.read_text())["examples"]
    }
    assert sum("\n" in text for text in prompts) > 1000
    parts = own_prompts(written(tmp_path / "bbh.jsonl", list(prompts.values())))
    assert sorted(p.text for part in parts.values() for p in part) == sorted(prompts)
    assert all(prompts[p.text] == p for part in parts.values() for p in part)
    held = {split: len(part) / len(prompts) for split, part in parts.items()}
    assert held == pytest.approx({"train": 0.70, "validation": 0.15, "test": 0.15}, abs=0.001)


def test_long_prompts_of_conversations_come_through(tmp_path: Path) -> None:
    prompts = [Prompt(row["turns"][0], row["category"]) for row in rows("spec_bench/question.jsonl")]
    distinct = {p.text: p for p in prompts}
    lines = [json.dumps({"prompt": p.text, "kind": p.kind}) for p in distinct.values()]
    (tmp_path / "spec.jsonl").write_text("\n".join(lines))
    parts = own_prompts(tmp_path / "spec.jsonl")
    assert {p.text: p for part in parts.values() for p in part} == distinct
