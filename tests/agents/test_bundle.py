"""The deployable bundle: it acts as the policy it was made from, and says so when it cannot be what it should."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from agents.bundle import Bundle, BundleError, Normaliser
from agents.rules import FixedRule
from runtime.synera.lens import Lens
from synera_env import Deployment, synera_schema
from synera_env.synera.schema import ALWAYS
from tests.support.recorded import Recorded

SCHEMA = synera_schema(2)
KNOBS = len(SCHEMA.rows)
ROWS = np.random.default_rng(0).uniform(SCHEMA.low, SCHEMA.high, (64, len(SCHEMA.low))).astype(np.float32)


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "bundle.json"
    stated = json.loads(path.read_text())
    change(stated)
    path.write_text(json.dumps(stated))


def test_normaliser_is_that_of_stable_baselines() -> None:
    from gymnasium import make
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    vec = VecNormalize(DummyVecEnv([lambda: make("CartPole-v1")]), clip_obs=3.0)
    rng = np.random.default_rng(1)
    vec.obs_rms.mean, vec.obs_rms.var = rng.normal(size=4), rng.uniform(0, 2, 4)  # type: ignore[union-attr]
    rows = rng.normal(0, 4, (50, 4)).astype(np.float32)
    ours = Normaliser(tuple(vec.obs_rms.mean), tuple(vec.obs_rms.var), vec.clip_obs, vec.epsilon)(rows)  # type: ignore[union-attr]
    np.testing.assert_allclose(ours, vec.normalize_obs(rows), rtol=1e-6)
    assert np.abs(ours).max() == 3.0
    vec.close()


def test_one_observation_acts_as_the_same_row_of_a_batch(bundle: Path) -> None:
    loaded = Bundle.load(bundle).controller(SCHEMA)
    batch, state = loaded.predict(ROWS, "kept")
    assert state == "kept"
    assert batch.shape == (64, KNOBS)
    assert batch.dtype == np.float32
    assert (np.abs(batch) <= 1).all()
    for row, action in zip(ROWS, batch, strict=True):
        one = loaded.predict(row)[0]
        assert one.shape == (KNOBS,)
        np.testing.assert_allclose(one, action, atol=1e-6)


def test_the_folder_holds_nothing_that_would_be_unpickled(bundle: Path) -> None:
    assert sorted(p.name for p in bundle.iterdir()) == ["bundle.json", "policy.onnx", "tables.safetensors"]


def test_loading_never_unpickles(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    import torch

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    assert Bundle.load(bundle).controller(SCHEMA).predict(ROWS)[0].shape == (64, KNOBS)


def test_what_the_bundle_says_of_itself(bundle: Path, pair: Recorded) -> None:
    meta = Bundle.load(bundle).meta
    assert meta.fingerprints["slm"] == pair.graphs.meta.slm_fingerprint
    assert meta.fingerprints["tokenizer"] == pair.graphs.meta.tokenizer_hash
    assert meta.fingerprints["lens"] == Lens.from_tensors(Bundle.load(bundle).tensors).fingerprint
    assert meta.max_new_tokens == pair.graphs.meta.max_new_tokens
    assert (meta.system, meta.schema_hash, meta.schema) == ("synera", SCHEMA.hash, SCHEMA.describe())
    assert meta.parity["max_abs_difference"] <= 1e-5
    assert meta.parity["samples"] == 256
    assert meta.provenance["algorithm"] == "PPO"
    assert meta.provenance["config"]["seed"] == 0


# ---------------------------------------------------------------- refusals


def refused(bundle: Path) -> str:
    with pytest.raises(BundleError) as error:
        Bundle.load(bundle).controller(SCHEMA)
    return str(error.value)


def test_a_missing_folder(tmp_path: Path) -> None:
    assert f"no bundle at {tmp_path / 'none'}" in refused(tmp_path / "none")


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"", b"\xff\xfe\x00", b'{"format_version": 2}', b'{"format_version": 2, "normaliser": 3}']
)
def test_a_damaged_description(bundle: Path, content: bytes) -> None:
    (bundle / "bundle.json").write_bytes(content)
    assert "bundle.json" in refused(bundle)


def test_a_description_with_a_field_missing_or_unknown(bundle: Path) -> None:
    edit(bundle, lambda stated: stated.update(surprise=1))
    assert "surprise" in refused(bundle)
    edit(bundle, lambda stated: (stated.pop("surprise"), stated.pop("schema_hash")))
    assert "schema_hash" in refused(bundle)


def test_another_format_version_names_both(bundle: Path) -> None:
    edit(bundle, lambda stated: stated.update(format_version=99))
    assert re.search(r"format 99, this version reads 2", refused(bundle))


def test_another_schema_names_both(bundle: Path) -> None:
    ours = json.loads((bundle / "bundle.json").read_text())["schema_hash"]
    edit(bundle, lambda stated: stated.update(schema_hash="0123456789abcdef"))
    message = refused(bundle)
    assert "0123456789abcdef" in message
    assert ours in message


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_damaged_policy(bundle: Path, content: bytes | None) -> None:
    policy = bundle / "policy.onnx"
    policy.write_bytes(policy.read_bytes()[:-100] if content is None else content)
    assert "not a usable ONNX model" in refused(bundle)


@pytest.mark.parametrize("name", ["policy.onnx", "tables.safetensors"])
def test_a_missing_part(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    message = refused(bundle)
    assert "is incomplete" in message
    assert name in message


def test_damaged_tables(bundle: Path) -> None:
    (bundle / "tables.safetensors").write_bytes(b"\x00" * 40)
    assert "is incomplete" in refused(bundle)


def test_swapped_tables(bundle: Path) -> None:
    """The sketch would mean something else, and no shape would tell."""
    path = bundle / "tables.safetensors"
    tensors = load_file(path)
    tensors["lens.directions"] = tensors["lens.directions"][:, ::-1].copy()
    save_file(tensors, path)
    assert "its tables are" in refused(bundle)


# ---------------------------------------------------------------- schema


def test_another_schema_is_explained(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"knobs row 2: name exit_index, .*high 1, .* there, .*high 2, .* here"):
        Bundle.load(bundle).controller(synera_schema(3))


# ---------------------------------------------------------------- export


def test_a_policy_that_acts_otherwise_fails_its_check(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"differs from the trained one by"):
        Bundle.load(bundle).checked(FixedRule(ALWAYS, SCHEMA), ROWS)


def test_a_policy_that_is_not_a_number_fails_its_check(bundle: Path) -> None:
    class Broken:
        def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            return np.full((len(observation), KNOBS), np.nan, np.float32), None

    with pytest.raises(BundleError, match="nan"):
        Bundle.load(bundle).checked(Broken(), ROWS)


def test_a_new_export_replaces_the_old_one_whole(bundle: Path) -> None:
    loaded = Bundle.load(bundle)
    acts = loaded.controller(SCHEMA)
    (bundle / "stale").write_text("from an earlier version")
    loaded.checked(acts, ROWS).save(bundle)
    written = Bundle.load(bundle)
    assert written.meta.parity == {"max_abs_difference": 0.0, "samples": 64.0}
    assert sorted(p.name for p in bundle.parent.iterdir()) == ["bundle"]
    assert sorted(p.name for p in bundle.iterdir()) == ["bundle.json", "policy.onnx", "tables.safetensors"]
    np.testing.assert_array_equal(written.controller(SCHEMA).predict(ROWS)[0], acts.predict(ROWS)[0])


@pytest.mark.parametrize("what", ["slm", "tokenizer", "lens"])
def test_a_world_of_something_else_is_refused(bundle: Path, pair: Recorded, what: str) -> None:
    loaded, here = Bundle.load(bundle), pair.env().deployment()
    loaded.require(here)
    with pytest.raises(BundleError, match=f"the {what} {here.fingerprints[what]}, here it would meet other"):
        loaded.require(Deployment(fingerprints={**here.fingerprints, what: "other"}))
