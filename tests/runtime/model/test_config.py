"""What a model folder states: every mutation of it is refused with a reason, and where its answers end."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from runtime.errors import CheckpointError, UnsupportedModelError
from runtime.model import config
from runtime.model.config import Stated, read_config
from runtime.model.loading import fingerprint, load_decoder
from runtime.model.tokenizer import load_tokenizer, tokenizer_hash
from tests.support.checkpoints import save_checkpoint, save_config
from traces import bundled

NAN, INFINITE, HUGE = float("nan"), float("inf"), 10**400
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 24}
LLAMA3 = YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}

NUMBERS: list[tuple[str, Any, str]] = [
    *(("vocab_size", value, "vocab_size") for value in (0, -1, 2**23, HUGE, 61.0, "61", True, None, [61])),
    *(("hidden_size", value, "hidden_size|hidden size") for value in (0, -32, 33, 2**20, HUGE, NAN, 1e308, "32", {})),
    *(("intermediate_size", value, "intermediate_size") for value in (0, -1, HUGE, 1.5)),
    *(("num_hidden_layers", value, "num_hidden_layers|exit_layers") for value in (0, -3, 10**9, HUGE, True, "3")),
    *(("num_attention_heads", value, "num_attention_heads|heads") for value in (0, -4, 3, 5, 10**9, NAN)),
    *(("num_key_value_heads", value, "num_key_value_heads") for value in (0, -2, 3, 8, "2", 2.0)),
    *(("head_dim", value, "head_dim") for value in (0, -8, 7, 1, 4096, 8.0, "8")),
    *(("max_position_embeddings", value, "max_position_embeddings") for value in (0, -1, 2**20 + 1, HUGE, INFINITE, [])),
    *(("rms_norm_eps", value, "rms_norm_eps") for value in (0, -1e-6, NAN, INFINITE, 2.0, "1e-6", HUGE)),
    *(("rope_theta", value, "rope_theta") for value in (0, -1.0, NAN, HUGE, "10000")),
    *(("sliding_window", value, "sliding_window") for value in (0, -7, 7.5, "7")),
]
SHAPES: list[tuple[str, Any, str]] = [
    ("vocab_size", 62, r"model\.embed_tokens\.weight has shape \[61, 32\], but config\.json asks for \[62, 32\]|lm_head"),
    ("hidden_size", 64, r"has shape \[.*\], but config\.json asks for \[.*64"),
    ("intermediate_size", 47, r"mlp\.\w+_proj\.weight has shape .*, but config\.json asks for .*47"),
    ("num_key_value_heads", 4, r"[kv]_proj\.weight has shape \[16, 32\], but config\.json asks for \[32, 32\]"),
    ("head_dim", 16, r"_proj\.weight has shape .*, but config\.json asks for"),
    ("num_hidden_layers", 4, r"exit_layers|lack the tensor 'model\.layers\.3\."),
]
REST: list[tuple[str, Any, str]] = [
    ("architectures", None, "none named"),
    ("architectures", [], "none named"),
    ("architectures", "LlamaForCausalLM", "architectures: .*valid array"),
    ("architectures", [None], r"architectures\.0: .*valid string"),
    ("architectures", [{"a": 1}], r"architectures\.0: .*valid string"),
    ("architectures", ["x" * 10_000], "xxx.* the supported architectures are"),
    ("model_type", "gpt2", "model_type='gpt2' does not go with LlamaForCausalLM"),
    ("model_type", ["llama"], "model_type: .*valid string"),
    ("hidden_act", "gelu", "activation 'gelu'"),
    ("hidden_act", 3, "hidden_act: .*valid string"),
    ("tie_word_embeddings", "no", "tie_word_embeddings"),
    ("attention_bias", 1, "attention_bias"),
    ("attention_bias", True, r"lack the tensor .*_proj\.bias"),
    ("mlp_bias", True, r"lack the tensor .*mlp.*bias"),
    ("layer_types", ["full_attention"], "layer_types"),
    ("layer_types", ["full_attention", "sliding_attention", "other"], r"layer_types\.2"),
    ("layer_types", "full_attention", "layer_types: .*valid array"),
    ("rope_parameters", [1, 2], "rope_parameters"),
    ("rope_parameters", {"rope_type": ["yarn"]}, "rope_type: .*valid string"),
    ("rope_parameters", {"rope_type": "dynamic", "factor": 2.0}, "rotary embedding 'dynamic'"),
    (
        "rope_parameters",
        {"rope_type": "linear", "rope_theta": 10000.0},
        "rotary embedding 'linear' cannot be worked out|factor",
    ),
    ("rope_parameters", {"rope_type": "linear", "rope_theta": 10000.0, "factor": 0}, "factor"),
    ("rope_parameters", {"rope_type": "linear", "rope_theta": 10000.0, "factor": HUGE}, "factor"),
    ("rope_parameters", {"rope_type": "linear", "rope_theta": NAN, "factor": 2.0}, "rope_theta"),
    ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("rope_parameters", YARN | {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("rope_parameters", YARN | {"original_max_position_embeddings": 0}, "original_max_position_embeddings"),
    ("rope_parameters", YARN | {"attention_factor": "1"}, "attention_factor"),
    ("rope_parameters", YARN | {"beta_fast": 1.0, "beta_slow": NAN}, "beta_slow"),
    ("rope_parameters", {k: v for k, v in LLAMA3.items() if k != "low_freq_factor"}, "Missing required keys .*low_freq_factor"),
    ("rope_scaling", {"type": "dynamic", "factor": 2.0}, "dynamic"),
    ("eos_token_id", 61, "config.json: eos_token_id=61 is outside the vocabulary of 61 tokens"),
    ("eos_token_id", [2, 61], "eos_token_id=61 is outside"),
    ("eos_token_id", -1, "eos_token_id"),
    ("eos_token_id", [2, "3"], "eos_token_id"),
    ("eos_token_id", 2.0, "eos_token_id"),
    ("eos_token_id", {"a": 2}, "eos_token_id"),
    ("eos_token_id", HUGE, "eos_token_id"),
    ("exit_layers", 3, "exit_layers: .*valid array, not 3"),
    ("exit_layers", "123", "exit_layers: .*valid array"),
    ("exit_layers", [1, "3"], r"exit_layers\.1"),
    ("exit_layers", [True, 3], r"exit_layers\.0"),
    ("exit_layers", [1.0, 3], r"exit_layers\.0"),
    ("exit_layers", [], r"exit_layers=\[\] must rise"),
    ("exit_layers", [[1], 3], r"exit_layers\.0"),
    ("exit_layers", [1, HUGE], r"exit_layers=\[1, 1000"),
    ("exit_layers", list(range(1, 100_000)), r"exit_layers=\[1, 2.*\.\.\. must rise"),
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save_checkpoint(folder, "Llama")
    return folder


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "model"))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        load_decoder(folder)
    assert type(error.value) in (CheckpointError, UnsupportedModelError)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


# ---------------------------------------------------------------- mutations


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "value", "message"), [*NUMBERS, *SHAPES, *REST])
def test_a_config_that_makes_no_sense_is_refused(folder: Path, name: str, value: Any, message: str) -> None:
    edit(folder, **{name: value})
    refused(folder, message)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Invalid JSON"),
        (b"{", "Invalid JSON"),
        (b"\x80\x81", "Invalid JSON"),
        (b"\xff\xfe{\x00}\x00", "Invalid JSON"),
        (b"[" * 200_000, "Invalid JSON: recursion limit"),
        (b'{"architectures": ' + b'{"a":' * 100_000, "Invalid JSON"),
        (b'{"vocab_size": ' + b"9" * 10_000 + b"}", "Invalid JSON"),
        (b"[]", "Input should be an object"),
        (b"3", "Input should be an object"),
        (b"null", "Input should be an object"),
        (b'"config"', "Input should be an object"),
        (b"{}", "none named"),
        (b'{"architectures": ["LlamaForCausalLM"]}', "config.json asks for"),
        (b" " * (17 * 2**20), "has 17825792 bytes"),
    ],
)
def test_a_config_that_is_none_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(content)
    refused(folder, message)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("noise", [{"num_labels": 10**9}, {"auto_map": {"AutoConfig": "evil.Config"}}, {"id2label": 3}])
def test_what_is_not_read_is_not_passed_on(folder: Path, noise: dict[str, Any]) -> None:
    """A thousand million labels, or code that comes with the checkpoint, are nobody's business here."""
    (folder / "evil.py").write_text("raise SystemExit('run')")
    edit(folder, **noise)
    assert load_decoder(folder).config.layers == 3


@pytest.mark.parametrize("rope", [{"type": "linear", "factor": 2.0}, {"rope_type": "linear", "factor": 2.0}])
def test_a_rotary_embedding_as_it_was_written_before_is_read(folder: Path, rope: dict[str, Any]) -> None:
    path = folder / "config.json"
    stated = json.loads(path.read_text())
    del stated["rope_parameters"]
    path.write_text(json.dumps(stated | {"rope_scaling": rope, "rope_theta": 500.0}))
    theirs = AutoConfig.from_pretrained(folder).rope_parameters
    assert (theirs["rope_theta"], theirs["factor"]) == (500.0, 2.0)
    wanted = 1.0 / 500.0 ** (torch.arange(0, 8, 2) / 8) / 2.0
    torch.testing.assert_close(read_config(folder).inv_freq, wanted)


# ---------------------------------------------------------------- without transformers


def without_transformers(folder: Path) -> Stated:
    """What is read where transformers cannot be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "transformers", None)
        patch.setitem(sys.modules, "transformers.modeling_rope_utils", None)
        return read_config(folder)


def same(one: Stated, other: Stated) -> bool:
    return torch.equal(one.inv_freq, other.inv_freq) and replace(one, inv_freq=other.inv_freq) == other


OLDER: dict[str, Any] = {"rope_parameters": None, "rope_theta": 500.0}
"""As it was written before transformers 5."""
SLIDING = ["full_attention", "sliding_attention", "full_attention"]


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2", "Qwen3"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        OLDER,
        OLDER | {"rope_scaling": {"type": "default"}},
        {"rope_scaling": {"rope_type": "default", "rope_theta": 700.0}, "rope_theta": 500.0},
        {"sliding_window": 7},
        {"sliding_window": 7, "use_sliding_window": False, "layer_types": SLIDING},
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "eos_token_id": [2, 5]},
        {"eos_token_id": None, "rms_norm_eps": 1, "head_dim": 16, "layer_types": None},
    ],
)
def test_a_whole_config_is_what_transformers_makes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, changes: dict[str, Any]
) -> None:
    save_config(tmp_path, kind)
    edit(tmp_path, **changes)
    own = without_transformers(tmp_path)
    monkeypatch.setattr(config, "_as_stated", lambda *_: None)
    assert same(own, read_config(tmp_path))


NEEDED = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "eos_token_id", "rope_parameters"),
)


@pytest.mark.parametrize(
    ("kind", "absent"), [*(("Llama", name) for name in NEEDED), ("Mistral", "sliding_window"), ("Qwen3", "head_dim")]
)
def test_what_is_absent_is_the_default_of_its_architecture(tmp_path: Path, kind: str, absent: str) -> None:
    save_config(tmp_path, kind)
    edit(tmp_path, hidden_size=64, num_attention_heads=4)  # fits each default of a figure
    whole = json.loads((tmp_path / "config.json").read_text())
    defaults = getattr(transformers, f"{kind}Config")()
    (tmp_path / "config.json").write_text(json.dumps({name: value for name, value in whole.items() if name != absent}))
    with pytest.raises(ImportError):
        without_transformers(tmp_path)
    found = read_config(tmp_path)
    edit(tmp_path, **{absent: getattr(defaults, absent) if absent != "num_key_value_heads" else 4})
    assert same(found, read_config(tmp_path))


@pytest.mark.parametrize(
    "changes", [{"rope_parameters": YARN}, {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}]
)
def test_what_is_worked_out_is_left_to_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    save_config(tmp_path, "Qwen2")
    edit(tmp_path, **changes | {"layer_types": None})
    with pytest.raises(ImportError):
        without_transformers(tmp_path)
    found = read_config(tmp_path)
    assert found.config.windows == ((None, 7, 7) if "sliding_window" in changes else (None, None, None))
    assert (found.rope_scale > 1) == ("rope_parameters" in changes)


def test_the_bundled_models_need_no_transformers() -> None:
    for name in ("slm", "llm"):
        assert without_transformers(bundled.PAIR / name).config.vocab > 0


# ---------------------------------------------------------------- weights


def damage(name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        weights = load_file(path)
        changed = change(weights.pop(name)) if name in weights else change(torch.zeros(1))
        save_file(weights | ({} if changed is None else {name: changed.contiguous()}), path, {"format": "pt"})

    return apply


Q, GATE = "model.layers.1.self_attn.q_proj", "model.layers.2.mlp.gate_proj"
FOUND, WANTED = r"has shape \[", r"\], but config\.json asks for \["


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (damage(f"{Q}.weight", lambda w: w[:-1]), rf"{Q}\.weight {FOUND}31, 32{WANTED}32, 32\]"),
        (damage(f"{Q}.weight", lambda w: w.flatten()), rf"{Q}\.weight {FOUND}1024{WANTED}32, 32\]"),
        (damage(f"{Q}.weight", lambda w: w[:0]), rf"{Q}\.weight {FOUND}0, 32{WANTED}32, 32\]"),
        (damage(f"{Q}.weight", lambda w: w.to(torch.int8)), rf"{Q}\.weight is stored as I8; only F64, F32, F16, BF16"),
        (damage(f"{Q}.weight", lambda w: w.to(torch.float8_e4m3fn)), "is stored as F8_E4M3"),
        (damage(f"{Q}.bias", lambda w: torch.zeros(31)), rf"{Q}\.bias {FOUND}31{WANTED}32\]"),
        (damage(f"{Q}.bias", lambda w: torch.zeros(32)), r"lack the tensor 'model\.layers\.1\.self_attn\.k_proj\.bias'"),
        (damage(f"{GATE}.bias", lambda w: torch.zeros(48)), r"lack the tensor 'model\.layers\.2\.mlp\.up_proj\.bias'"),
        (damage("model.layers.0.self_attn.k_norm.weight", lambda w: torch.ones(8)), r"lack the tensor .*q_norm\.weight"),
        (damage("model.norm.weight", lambda w: w[:, None]), rf"model\.norm\.weight {FOUND}32, 1{WANTED}32\]"),
        (damage("model.embed_tokens.weight", lambda w: w.T), rf"model\.embed_tokens\.weight {FOUND}32, 61{WANTED}61, 32\]"),
        (damage("lm_head.weight", lambda w: w[:60]), rf"lm_head\.weight {FOUND}60, 32{WANTED}61, 32\]"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(b"\x00" * 1000), "cannot be read"),
        (lambda path: path.write_bytes(b"\xff" * 1000), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:9]), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cannot be read"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
        (lambda path: save_file({}, path), r"lack the tensor"),
        (lambda path: path.rename(path.with_suffix(".bin")), r"no \*\.safetensors"),
    ],
)
def test_weights_that_are_not_what_the_config_says_are_refused(
    folder: Path, apply: Callable[[Path], None], message: str
) -> None:
    apply(folder / "model.safetensors")
    refused(folder, message)


def test_a_tensor_that_nobody_asks_for_is_left_alone(folder: Path) -> None:
    wanted = load_decoder(folder).weight_bytes
    damage("model.layers.0.self_attn.rotary_emb.inv_freq", lambda w: torch.zeros(99, dtype=torch.int8))(
        folder / "model.safetensors"
    )
    assert load_decoder(folder).weight_bytes == wanted


# ---------------------------------------------------------------- ends of an answer


def generation_config(folder: Path, eos: Any) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos, "temperature": 0.6}))


@pytest.mark.parametrize(
    ("config", "generation", "wanted"),
    [
        (2, [2, 7], (2, 7)),
        (2, 9, (2, 9)),
        ([2, 4], [7, 4], (2, 4, 7)),
        (None, [5], (5,)),
        (2, None, (2,)),
        (2, [], (2,)),
        (None, None, ()),
    ],
)
def test_an_answer_ends_with_a_token_of_either_file(
    folder: Path, config: Any, generation: Any, wanted: tuple[int, ...]
) -> None:
    edit(folder, eos_token_id=config)
    generation_config(folder, generation)
    assert load_decoder(folder).config.eos_ids == wanted


def test_without_a_generation_config_the_config_stands_alone(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    assert load_decoder(folder).config.eos_ids == (2,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"eos_token_id": 61}', r"generation_config\.json: eos_token_id=61 is outside the vocabulary of 61 tokens"),
        (b'{"eos_token_id": [2, -1]}', r"generation_config\.json is not a usable config: eos_token_id"),
        (b'{"eos_token_id": "2"}', r"generation_config\.json is not a usable config: eos_token_id"),
        (b'{"eos_token_id": true}', r"generation_config\.json is not a usable config: eos_token_id"),
        (b"[]", r"generation_config\.json is not a usable config"),
        (b"{", r"generation_config\.json is not a usable config"),
    ],
)
def test_a_generation_config_that_makes_no_sense_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "generation_config.json").write_bytes(content)
    refused(folder, message)


def test_the_fingerprint_follows_where_answers_end(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    alone = fingerprint(folder)
    generation_config(folder, 2)
    assert fingerprint(folder) == alone, "nothing is added to what config.json says"
    generation_config(folder, [2, 7])
    more = fingerprint(folder)
    generation_config(folder, [7, 2])
    assert fingerprint(folder) == more != alone


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize("read", [load_decoder, load_tokenizer, tokenizer_hash, fingerprint])
@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "meta-llama/Llama-3.2-1B"])
def test_a_name_on_the_hub_is_told_from_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Any], object], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for given in (name, Path(name)):
        with pytest.raises(CheckpointError, match=f"no model at {name}: .* only synera record looks names up") as error:
            read(given)
        assert f"hf download {name} --local-dir FOLDER" in str(error.value)


@pytest.mark.parametrize("read", [load_decoder, load_tokenizer, tokenizer_hash, fingerprint])
def test_a_folder_that_is_none_says_what_is_wanted(tmp_path: Path, read: Callable[[Any], object]) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for place, message in (
        ("none", r"none: there is no such folder .*; give a Hugging Face folder"),
        ("file", r"file: it is not a folder; give a Hugging Face folder"),
        ("empty", r"empty: it has no (config|tokenizer)\.json; "),
        ("x" * 300, "File name too long"),
        ("a\0b", "there is no such folder"),
    ):
        with pytest.raises(CheckpointError, match=f"no model at .*{message}") as error:
            read(tmp_path / place)
        assert "hf download" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_config_that_may_not_be_read_is_named(folder: Path) -> None:
    (folder / "config.json").chmod(0)
    refused(folder, "Permission denied")
