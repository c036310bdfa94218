from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoModelForCausalLM

from runtime.errors import CheckpointError, ContextOverflowError, UnsupportedModelError
from runtime.model.config import SUPPORTED
from runtime.model.exits import ExitLedger
from runtime.model.kv import RaggedKV, SequenceKV
from runtime.model.loading import fingerprint, load_decoder
from runtime.model.placement import Placement
from tests.support.checkpoints import VOCAB, random_ids, save_checkpoint
from tests.support.placements import apart, assert_near, pretended_device

LENGTH = 40
TOLERANCE = 1e-4
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 24}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-sharded": ("Llama", {"shard": "20KB"}),
    "llama-no-gqa": ("Llama", {"num_key_value_heads": 4}),
    "llama-biased": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama3-rope": ("Llama", {"rope_parameters": _LLAMA3}),
    "linear-rope": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}}),
    "yarn-rope": ("Llama", {"rope_parameters": _YARN}),
    "mistral-window": ("Mistral", {"sliding_window": 7}),
    "mistral-head-dim": ("Mistral", {"sliding_window": None, "head_dim": 16}),
    "qwen2-bias": ("Qwen2", {}),
    "qwen2-mixed-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3-norms": ("Qwen3", {"head_dim": 16}),
}


class Loaded:
    """A decoder beside what transformers computes for one sequence in float32 on the CPU."""

    def __init__(self, folder: Path, kind: str, changes: dict[str, Any], placement: Placement) -> None:
        self.folder, self.placement = folder, placement
        model = save_checkpoint(folder, kind, exits=(1, 2, 3), attn_implementation="eager", **changes)
        self.decoder = load_decoder(folder, placement)
        self.ids = random_ids(LENGTH)
        self.by_exit = logits_by_exit(model, self.ids)
        self.wanted = self.by_exit[-1]

    def cache(self) -> SequenceKV:
        return self.decoder.new_cache()

    def forward(self, ids: Tensor, kv: SequenceKV, first: int) -> Tensor:
        """Logits [rows, vocab] of ids placed from `first` on."""
        positions = torch.arange(first, first + len(ids))
        return self.decoder.logits(self.decoder.run(self.decoder.embed(ids), positions, kv))

    def check(self, got: Tensor, first: int, stop: int) -> None:
        assert got.shape == (stop - first, VOCAB)
        self.near(got, self.wanted[first:stop])

    def near(self, got: Tensor, wanted: Tensor, float32_limit: float = TOLERANCE) -> None:
        assert_near(got, wanted, self.placement.dtype, float32_limit)


def logits_by_exit(model: Any, ids: Tensor) -> list[Tensor]:
    """What a transformers model says after each of its layers, each [LENGTH, VOCAB]."""
    with torch.inference_mode():
        out = model(ids[None], output_hidden_states=True)
        hidden = [model.model.norm(h[0]) for h in out.hidden_states[1:-1]]
        return [model.lm_head(h) for h in hidden] + [out.logits[0]]


@pytest.fixture(scope="module", params=list(MODELS))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, placement: Placement) -> Loaded:
    kind, changes = MODELS[request.param]
    return Loaded(tmp_path_factory.mktemp(request.param), kind, changes, placement)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, placement: Placement) -> Loaded:
    return Loaded(tmp_path_factory.mktemp("llama"), "Llama", {}, placement)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory, placement: Placement) -> Loaded:
    return Loaded(tmp_path_factory.mktemp("mistral"), "Mistral", {"sliding_window": 5}, placement)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path, "Llama")
    return tmp_path


def _edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _drop_tensor(folder: Path, name: str) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights[name]
    save_file(weights, path, {"format": "pt"})


# ---------------------------------------------------------------- against transformers


def test_prefill_matches_transformers(loaded: Loaded) -> None:
    loaded.check(loaded.forward(loaded.ids, loaded.cache(), 0), 0, LENGTH)


def test_step_by_step_matches_transformers(loaded: Loaded) -> None:
    kv = loaded.cache()
    loaded.check(torch.cat([loaded.forward(loaded.ids[i : i + 1], kv, i) for i in range(LENGTH)]), 0, LENGTH)


def test_truncation_and_regrowth_match_transformers(loaded: Loaded) -> None:
    kv = loaded.cache()
    loaded.forward(loaded.ids[:20], kv, 0)
    loaded.forward(random_ids(9, seed=5), kv, 20)  # a draft that is rolled back
    kv.truncate(17)
    assert kv.lengths == [17] * 3
    loaded.check(loaded.forward(loaded.ids[17:23], kv, 17), 17, 23)
    loaded.check(loaded.forward(loaded.ids[23:24], kv, 23), 23, 24)


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 13), min_size=1, max_size=12))
def test_any_chunking_matches_transformers(windowed: Loaded, llama: Loaded, sizes: list[int]) -> None:
    for model in (llama, windowed):
        kv, first = model.cache(), 0
        for size in sizes:
            chunk = model.ids[first : first + size]
            if len(chunk):
                model.check(model.forward(chunk, kv, first), first, first + len(chunk))
            first += len(chunk)


@settings(max_examples=15, deadline=None)
@given(exits=st.lists(st.integers(0, 2), min_size=1, max_size=LENGTH - 6), rolled_back=st.integers(0, 8))
def test_mixed_exits_match_transformers_at_every_exit(
    llama: Loaded, windowed: Loaded, exits: list[int], rolled_back: int
) -> None:
    for model in (llama, windowed):
        kv, ledger = model.cache(), ExitLedger(model.decoder.config.exit_layers)
        hidden = model.decoder.embed(model.ids).new_zeros(3, LENGTH, model.decoder.config.hidden)
        prompt = 6
        for place, exit_index in enumerate(exits):
            length = prompt + place
            if place == len(exits) // 2:
                length = max(1, length - rolled_back)
                ledger.truncate(length - 1)
                kv.truncate(length - 1)
            for s in ledger.segments(length, exit_index):
                below = model.decoder.embed(model.ids) if s.exit_index == 0 else hidden[s.exit_index - 1]
                rows = torch.arange(s.first, s.stop)
                hidden[s.exit_index, s.first : s.stop] = model.decoder.run(
                    below[s.first : s.stop], rows, kv, s.start_layer, s.stop_layer
                )
            for reached in range(exit_index + 1):
                got = model.decoder.logits(hidden[reached, :length])
                model.near(got, model.by_exit[reached][:length])


# ---------------------------------------------------------------- placement


def test_each_exit_is_as_exact_as_transformers_in_the_same_type(loaded: Loaded) -> None:
    """The two round at other places, so neither is nearer to float32 always; twice as far would be a defect."""
    if loaded.placement.dtype == "float32":
        pytest.skip("float32 is held to transformers entry by entry")
    decoder, dtype = loaded.decoder, loaded.placement.torch_dtype
    peer = AutoModelForCausalLM.from_pretrained(loaded.folder, dtype=dtype, attn_implementation="eager").eval()
    hidden, kv = decoder.embed(loaded.ids), loaded.cache()
    for layer, (theirs, exact) in enumerate(zip(logits_by_exit(peer, loaded.ids), loaded.by_exit, strict=True)):
        hidden = decoder.run(hidden, torch.arange(LENGTH), kv, layer, layer + 1)
        ours = decoder.logits(hidden)
        assert ours.dtype == dtype
        assert apart(ours, exact) <= 2 * apart(theirs, exact)


def test_weights_states_and_caches_have_the_type_and_device_that_were_asked_for(llama: Loaded) -> None:
    decoder, kv, tree = llama.decoder, llama.decoder.new_cache(), llama.decoder.new_tree()
    device, dtype = llama.placement.torch_device.type, llama.placement.torch_dtype
    assert (decoder.device.type, decoder.dtype) == (device, dtype)
    weights = load_file(llama.folder / "model.safetensors").values()
    assert decoder.weight_bytes == dtype.itemsize * sum(w.numel() for w in weights)
    assert kv.nbytes == dtype.itemsize * 3 * 2 * 2 * 64 * 8  # layers, keys and values, heads, positions, head size
    tree.place(torch.tensor([0]), torch.tensor([[0]]), torch.tensor([1]))
    for cache in (kv, tree):
        hidden = decoder.run(decoder.embed(torch.tensor([5])), torch.tensor([0]), cache)
        assert (hidden.device.type, hidden.dtype) == (device, dtype)


def test_ids_and_positions_may_be_on_either_device(llama: Loaded) -> None:
    there = [t.to(llama.placement.torch_device) for t in (llama.ids, torch.arange(LENGTH))]
    got = llama.decoder.logits(llama.decoder.run(llama.decoder.embed(there[0]), there[1], llama.cache()))
    assert torch.equal(got, llama.forward(llama.ids, llama.cache(), 0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "changes"), [("Llama", {}), ("Mistral", {"sliding_window": 5}), ("Qwen3", {})])
def test_a_forward_mixes_no_devices_and_waits_for_nothing(
    tmp_path: Path, kind: str, changes: dict[str, Any], dtype: str
) -> None:
    save_checkpoint(tmp_path, kind, **changes)
    with pretended_device(tmp_path, dtype) as decoder:
        one, other, tree = decoder.new_cache(), decoder.new_cache(), decoder.new_tree()
        for first, rows in ((0, 70), (70, 1), (71, 4)):  # grows, a single row, a chunk
            hidden = decoder.run(decoder.embed(torch.arange(rows)), torch.arange(first, first + rows), one)
            assert decoder.logits(hidden).device.type == "meta"
        one.truncate(60)
        ragged = decoder.run(decoder.embed(torch.arange(5)), torch.arange(5), RaggedKV([one, other], [2, 3]))
        for slots, depth in ((torch.arange(3), 1), (torch.arange(2000, 2003), 2)):
            tree.place(slots, torch.zeros(3, depth, dtype=torch.int64), torch.full((3,), depth))
            branched = decoder.run(decoder.embed(torch.arange(3)), torch.full((3,), depth - 1), tree)
        assert (ragged.device.type, branched.device.type) == ("meta", "meta")


def test_the_check_above_finds_what_it_looks_for(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "Llama")
    with pretended_device(tmp_path) as decoder:
        hidden = decoder.embed(torch.arange(3))
        with pytest.raises(RuntimeError, match="same device"):
            hidden + torch.zeros(3, 32)
        with pytest.raises(AssertionError, match="read back"):
            decoder.run(hidden, torch.arange(3, device="meta"), decoder.new_cache())


# ---------------------------------------------------------------- batches


def test_ragged_rows_equal_single_rows(loaded: Loaded) -> None:
    lengths, tokens = (3, 21, 1, 9, 0), (1, 4, 1, 5, 7)
    decoder, sequences = loaded.decoder, [random_ids(40, seed) for seed in range(5)]
    together, alone = [loaded.cache() for _ in lengths], [loaded.cache() for _ in lengths]
    for caches in (together, alone):
        for ids, kv, length in zip(sequences, caches, lengths, strict=True):
            if length:
                loaded.forward(ids[:length], kv, 0)
    spans = [(n, n + t) for n, t in zip(lengths, tokens, strict=True)]
    ids = torch.cat([s[a:b] for s, (a, b) in zip(sequences, spans, strict=True)])
    positions = torch.cat([torch.arange(a, b) for a, b in spans])
    got = decoder.logits(decoder.run(decoder.embed(ids), positions, RaggedKV(together, tokens)))
    wanted = torch.cat([loaded.forward(s[a:b], kv, a) for s, kv, (a, b) in zip(sequences, alone, spans, strict=True)])
    loaded.near(got, wanted, 1e-5)
    assert [kv.lengths for kv in together] == [kv.lengths for kv in alone]


@settings(max_examples=12, deadline=None)
@given(parents=st.lists(st.integers(0, 30), min_size=1, max_size=24), seed=st.integers(0, 9))
def test_tree_equals_sequences(llama: Loaded, windowed: Loaded, parents: list[int], seed: int) -> None:
    """Node i > 0 hangs under node parents[i - 1] modulo i; all nodes of a depth run in one forward."""
    paths = [[0]]
    for i, parent in enumerate(parents, 1):
        paths.append([*paths[parent % i], i])
    ids = random_ids(len(paths), seed)
    for model in (llama, windowed):
        decoder = model.decoder
        tree = decoder.new_tree()
        for depth in range(1, max(map(len, paths)) + 1):
            wave = [p for p in paths if len(p) == depth]
            slots = torch.tensor([p[-1] for p in wave])
            tree.place(slots, torch.tensor(wave), torch.full((len(wave),), depth))
            got = decoder.run(decoder.embed(ids[slots]), torch.full((len(wave),), depth - 1), tree)
            for row, path in enumerate(wave):
                kv = decoder.new_cache()
                wanted = decoder.run(decoder.embed(ids[path]), torch.arange(depth), kv)
                model.near(got[row], wanted[-1])


def test_tree_ignores_the_padding_of_shorter_paths(llama: Loaded) -> None:
    decoder = llama.decoder
    tree = decoder.new_tree()
    for i in range(3):
        tree.place(torch.tensor([i]), torch.arange(i + 1)[None], torch.tensor([i + 1]))
        decoder.run(decoder.embed(llama.ids[i : i + 1]), torch.tensor([i]), tree)
    # Slots 3 and 4 are siblings of different depth: 0-1-2-3 and 0-4; the short path is padded with a slot that it must not see.
    tree.place(torch.tensor([3, 4]), torch.tensor([[0, 1, 2, 3], [0, 4, 1, 1]]), torch.tensor([4, 2]))
    got = decoder.run(decoder.embed(llama.ids[3:5]), torch.tensor([3, 1]), tree)
    for row, path in enumerate(([0, 1, 2, 3], [0, 4])):
        wanted = decoder.run(decoder.embed(llama.ids[path]), torch.arange(len(path)), llama.cache())[-1]
        llama.near(got[row], wanted)


# ---------------------------------------------------------------- config


def test_config_states_what_the_checkpoint_holds(loaded: Loaded) -> None:
    config = loaded.decoder.config
    assert config.architecture in SUPPORTED
    assert (config.vocab, config.hidden, config.layers, config.context) == (VOCAB, 32, 3, 96)
    assert config.exit_layers == (1, 2, 3)
    assert config.eos_ids == (2,)


@pytest.mark.parametrize("tied", [True, False])
def test_what_the_tokenizer_has_no_token_for_is_never_said(tmp_path: Path, tied: bool) -> None:
    """Rows beyond it are read nowhere, and an end among them ends nothing; what is said of the others stays as it was."""
    model = save_checkpoint(tmp_path, "Llama", tie_word_embeddings=tied, eos_token_id=[2, 55])
    ids = random_ids(LENGTH)
    whole = load_decoder(tmp_path)
    words = {f"word{number}": number for number in range(50)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="word0"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    cut = load_decoder(tmp_path)
    assert (whole.config.vocab, cut.config.vocab) == (VOCAB, 50)
    assert (whole.config.eos_ids, cut.config.eos_ids) == ((2, 55), (2,))
    said = [d.logits(d.run(d.embed(ids % 50), torch.arange(LENGTH), d.new_cache())) for d in (whole, cut)]
    assert said[1].shape == (LENGTH, 50)
    assert torch.equal(said[1], said[0][:, :50])
    assert (said[0].argmax(-1) >= 50).any(), "else nothing was cut"
    assert cut.weight_bytes == 4 * sum(p.numel() for p in model.parameters())
    tokenizer.add_tokens([f"more{number}" for number in range(40)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_decoder(tmp_path).config.vocab == VOCAB, "no more than the model has"


def test_windows_follow_the_layer_types(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "Qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=1)
    assert load_decoder(tmp_path).config.windows == (None, 5, 5)


def test_exit_layers_default_to_the_last_layer_and_eos_may_be_several(folder: Path) -> None:
    _edit_config(folder, eos_token_id=[2, 7])
    config = load_decoder(folder).config
    assert config.exit_layers == (3,)
    assert config.eos_ids == (2, 7)


@pytest.mark.parametrize("tied", [True, False])
def test_weight_bytes_counts_each_weight_once(tmp_path: Path, tied: bool) -> None:
    model = save_checkpoint(tmp_path, "Llama", tie_word_embeddings=tied)
    assert load_decoder(tmp_path).weight_bytes == 4 * sum(p.numel() for p in model.parameters())


def test_fingerprint_follows_config_and_weights(folder: Path) -> None:
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    _edit_config(folder, rms_norm_eps=1e-5)
    other_config = fingerprint(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert len({before, other_config, fingerprint(folder)}) == 3


# ---------------------------------------------------------------- errors


def test_a_missing_folder_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model at .*nowhere.*config\.json"):
        load_decoder(tmp_path / "nowhere")


def test_an_unsupported_architecture_is_named_with_the_supported_ones(folder: Path) -> None:
    _edit_config(folder, architectures=["GPT2LMHeadModel"])
    with pytest.raises(UnsupportedModelError, match="GPT2LMHeadModel") as raised:
        load_decoder(folder)
    assert all(name in str(raised.value) for name in SUPPORTED)


def test_an_unsupported_activation_and_rope_are_named(folder: Path) -> None:
    _edit_config(folder, rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0})
    with pytest.raises(UnsupportedModelError, match="dynamic"):
        load_decoder(folder)
    _edit_config(folder, hidden_act="gelu")
    with pytest.raises(UnsupportedModelError, match="gelu"):
        load_decoder(folder)


@pytest.mark.parametrize("text", ["{not json", '{"architectures": ["LlamaForCausalLM"], "model_type": "no such type"}'])
def test_an_unusable_config_is_a_checkpoint_error(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_decoder(folder)


def test_weights_that_are_missing_or_corrupt_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_decoder(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors"):
        load_decoder(folder)


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.2.self_attn.k_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.0.input_layernorm.weight",
    ],
)
def test_a_missing_tensor_is_an_error(folder: Path, name: str) -> None:
    _drop_tensor(folder, name)
    with pytest.raises(CheckpointError, match="lack the tensor"):
        load_decoder(folder)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("Qwen2", "model.layers.1.self_attn.v_proj.bias"), ("Qwen3", "model.layers.1.self_attn.q_norm.weight")],
)
def test_a_missing_bias_or_head_norm_is_an_error(tmp_path: Path, kind: str, name: str) -> None:
    save_checkpoint(tmp_path, kind)
    _drop_tensor(tmp_path, name)
    with pytest.raises(CheckpointError, match="lack the tensor"):
        load_decoder(tmp_path)


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "Llama", shard="20KB")
    sorted(tmp_path.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(CheckpointError, match="lack the tensor"):
        load_decoder(tmp_path)


def test_a_second_form_of_the_weights_is_left_alone(folder: Path) -> None:
    wanted = load_decoder(folder).weight_bytes
    (folder / "consolidated.safetensors").write_bytes(b"not read")
    assert load_decoder(folder).weight_bytes == wanted


def test_a_head_of_its_own_is_used_even_if_the_config_calls_it_tied(tmp_path: Path) -> None:
    """As transformers does."""
    save_checkpoint(tmp_path, "Llama", tie_word_embeddings=True)
    path, row = tmp_path / "model.safetensors", torch.tensor([3])
    save_file(load_file(path) | {"lm_head.weight": torch.ones(VOCAB, 32)}, path, {"format": "pt"})
    decoder, model = load_decoder(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.inference_mode():
        wanted = model(row[None]).logits[0]
    got = decoder.logits(decoder.run(decoder.embed(row), torch.tensor([0]), decoder.new_cache()))
    assert (got - wanted).abs().max().item() <= TOLERANCE


@pytest.mark.parametrize("exits", [[2, 1, 3], [1, 1, 3], [0, 3], [1, 2], [1, 4]])
def test_bad_exit_layers_are_shown(folder: Path, exits: list[int]) -> None:
    _edit_config(folder, exit_layers=exits)
    with pytest.raises(CheckpointError, match=r"exit_layers=.*the last layer, 3"):
        load_decoder(folder)


def test_a_position_past_the_context_is_an_error_and_the_last_one_is_not(llama: Loaded) -> None:
    ids = random_ids(97)
    assert llama.forward(ids[:96], llama.cache(), 0).isfinite().all()
    with pytest.raises(ContextOverflowError, match=r"position 96 .* 96 tokens"):
        llama.forward(ids, llama.cache(), 0)
