"""Names on the hub: what is downloaded, what is taken from the cache, and one sentence where neither is possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from runtime.errors import CheckpointError
from runtime.model.hub import model_folder
from runtime.model.loading import load_decoder
from tests.support.checkpoints import save_checkpoint

NAME = "owner/Model-0.5B"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as the library lays it out, of one model, with a network that is not there."""
    root = tmp_path / "hub" / "models--owner--Model-0.5B"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("a" * 40)
    save_checkpoint(root / "snapshots" / ("a" * 40), "Llama")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return root / "snapshots" / ("a" * 40)


def test_what_was_downloaded_is_taken_from_the_cache(cache: Path) -> None:
    found = model_folder(Path(NAME))
    assert found == cache
    assert load_decoder(found).config.layers == 3


def test_a_folder_is_never_looked_up(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    (tmp_path / NAME).mkdir(parents=True)
    for path in (Path(NAME), tmp_path / "missing", Path("just-a-word"), Path("a/b/c"), Path("../x")):
        assert model_folder(path) == path


@pytest.mark.parametrize("name", ["owner/another", "Owner/x_1.0"])
def test_a_model_that_is_in_no_cache_is_one_sentence_without_a_network(cache: Path, name: str) -> None:
    with pytest.raises(
        CheckpointError, match=f"there is no folder {name}, and a model of that name is neither .* go online once"
    ) as error:
        model_folder(Path(name))
    assert "\n" not in str(error.value)


def test_what_the_library_refuses_as_a_name_is_left_to_the_loader(cache: Path) -> None:
    assert model_folder(Path("owner/a--b")) == Path("owner/a--b")


def test_what_is_asked_for_leaves_out_other_forms_of_the_weights(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(name=name, **options)
        raise LocalEntryNotFoundError("no")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointError):
        model_folder(Path(NAME))
    from huggingface_hub.utils import filter_repo_objects

    files = ["config.json", "model-00001-of-00002.safetensors", "chat_template.jinja", "pytorch_model.bin", "README.md"]
    files += ["original/consolidated.00.pth", "consolidated.safetensors", "onnx/model.onnx", "original/model.safetensors"]
    kept = list(filter_repo_objects(files, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]))
    assert asked["name"] == NAME
    assert kept == files[:3]
