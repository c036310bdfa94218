"""`synera train-adapter`: from a model to an adapter and its card, with the bundled tasks and with prompts of one's own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import SettingError
from runtime.hat.adapter import Adapter
from runtime.hat.drafters import load_drafter
from runtime.hat.medusa import MedusaHeads
from runtime.model.loading import fingerprint, load_decoder
from scripts import train_adapter
from scripts.train_adapter import Arguments
from tests.support.own_pair import save_pair, write_prompts
from traces import bundled
from traces.hat import adapter_texts  # noqa: F401 - reads how long answers are, before that is made short


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of models that hardly know how to end one."""
    monkeypatch.setattr(bundled, "MAX_NEW_TOKENS", 6)


def test_an_adapter_of_the_bundled_tasks_is_trained_measured_and_measured_again(
    tmp_path: Path, tiny_llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out [1]"
    given = {"model": tiny_llm, "split": "1", "out": out, "test_prompts": 1}
    train_adapter.main(Arguments(**given, steps=2))  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "# An adapter" in said
    assert "| all | 20 |" in said
    assert "plain decoding in 20 of" in said
    assert {path.name for path in out.iterdir()} >= {"adapter.safetensors", "adapter.ckpt", "README.md", "tb"}
    decoder = load_decoder(tiny_llm)
    adapter = Adapter.load(out, decoder, fingerprint(tiny_llm))
    assert adapter.first == 1
    assert adapter.stated.training["texts"] == "dialogues of the bundled tasks"
    following = next(line for line in said.splitlines() if line.startswith("next: "))
    words = shlex.split(following)[1:]
    assert words[:5] == ["synera", "train-adapter", "--only-measure", "--test-prompts", "4"]
    assert words[5:] == ["--model", str(tiny_llm), "--out", str(out)]
    before = (out / "adapter.safetensors").read_bytes()
    (out / "README.md").unlink()
    train_adapter.main(Arguments(**given, only_measure=True))  # type: ignore[arg-type]
    assert (out / "README.md").is_file()
    assert (out / "adapter.safetensors").read_bytes() == before


def test_medusa_heads_are_trained_on_the_models_own_answers_and_measured(
    tmp_path: Path, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"drafter": "medusa", "model": tiny_llm, "split": "1", "test_prompts": 1}
    train_adapter.main(Arguments(**given, steps=2))
    said = capsys.readouterr().out
    assert "# Medusa heads" in said
    assert "| all | 20 |" in said
    assert "plain decoding in 20 of" in said
    assert "or with 4 tokens" in said
    out = Path("runs/medusa")
    assert {path.name for path in out.iterdir()} >= {"medusa.safetensors", "medusa.ckpt", "README.md", "tb"}
    decoder = load_decoder(tiny_llm)
    heads = load_drafter(out, decoder, fingerprint(tiny_llm))
    assert isinstance(heads, MedusaHeads)
    assert (heads.first, heads.heads) == (1, 4)
    assert heads.stated.training["texts"] == "32 prompts of the bundled tasks, answered by the model"
    following = next(line for line in said.splitlines() if line.startswith("next: "))
    assert following.split()[1:6] == ["synera", "train-adapter", "--only-measure", "--test-prompts", "4"]
    assert "--drafter medusa" in following
    before = (out / "medusa.safetensors").read_bytes()
    train_adapter.main(Arguments(**given, only_measure=True))
    assert "# Medusa heads" in capsys.readouterr().out
    assert (out / "medusa.safetensors").read_bytes() == before


def test_own_prompts_are_answered_by_the_model_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = save_pair(tmp_path / "pair", "Qwen2")
    prompts = tmp_path / "prompts.jsonl"
    write_prompts(prompts, 12)
    given = {"model": pair.llm, "split": "1", "texts": prompts, "out": tmp_path / "out"}
    train_adapter.main(Arguments(**given, steps=2))  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "10 prompts of prompts.jsonl, answered by the model" in said
    assert "| all | 2 |" in said
    assert "plain decoding in 2 of" in said


def test_a_model_of_another_tokenizer_needs_prompts_of_its_own(tmp_path: Path) -> None:
    pair = save_pair(tmp_path / "pair", "Qwen2")
    with pytest.raises(
        SettingError, match="has another tokenizer than the bundled tasks; name prompts of its own with --texts"
    ):
        train_adapter.main(Arguments(model=pair.llm, split="1", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
