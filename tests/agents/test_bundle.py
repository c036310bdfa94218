"""The deployable bundle: it acts as the policy it was made from, and says so when it cannot be what it should."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from agents.base import Limited
from agents.bundle import Bundle, BundleError, BundleMeta, Parity
from agents.choices import state_choices
from agents.evaluation import answer, make_plan
from agents.policy import ControllerPolicy
from agents.rules import FixedRule, RandomRule
from runtime.synera.lens import Lens
from synera_env import Deployment, Frame, Preference, PreferenceRange, synera_schema
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import ALWAYS
from tests.support.recorded import TINY_RUN, Recorded

SCHEMA = synera_schema(2)
KNOBS = len(SCHEMA.rows)
ROWS = np.random.default_rng(0).uniform(SCHEMA.low, SCHEMA.high, (64, len(SCHEMA.low))).astype(np.float32)
STATED = dict(state_choices([ALWAYS], SCHEMA)[0])


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "bundle.json"
    stated = json.loads(path.read_text())
    change(stated)
    path.write_text(json.dumps(stated))


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
    assert meta.parity.max_abs_difference <= 1e-5
    assert meta.parity.samples == 256
    assert (meta.name, meta.format_version) == ("run", 5)
    assert meta.preferences == PreferenceRange.of(Preference())
    assert len(meta.seen.low) == len(meta.seen.high) == len(SCHEMA.low)
    assert meta.policy_sha256 == sha256((bundle / "policy.onnx").read_bytes()).hexdigest()
    assert meta.tables_sha256 == sha256((bundle / "tables.safetensors").read_bytes()).hexdigest()
    assert meta.provenance["algorithm"] == "ppo"
    assert meta.provenance["config"]["seed"] == TINY_RUN.seed


# ---------------------------------------------------------------- refusals


def refused(bundle: Path) -> str:
    with pytest.raises(BundleError) as error:
        Bundle.load(bundle).controller(SCHEMA)
    return str(error.value)


def test_a_missing_folder(tmp_path: Path) -> None:
    assert f"no bundle at {tmp_path / 'none'}" in refused(tmp_path / "none")


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"", b"\xff\xfe\x00", b"3", b"null", b"[" * 100_000, b'{"format_version": 5}', b'{"format_version": "5"}'],
)
def test_a_damaged_description(bundle: Path, content: bytes) -> None:
    (bundle / "bundle.json").write_bytes(content)
    assert "bundle.json" in refused(bundle)


def test_another_format_version_names_both(bundle: Path) -> None:
    for other in (4, 99):
        edit(bundle, lambda stated: stated.update(format_version=other))  # noqa: B023
        assert f"format {other}, this version reads 5" in refused(bundle)


def test_another_schema_names_both(bundle: Path) -> None:
    ours = json.loads((bundle / "bundle.json").read_text())["schema_hash"]
    edit(bundle, lambda stated: stated.update(schema_hash="0123456789abcdef"))
    message = refused(bundle)
    assert "0123456789abcdef" in message
    assert ours in message


@pytest.mark.parametrize("name", ["policy.onnx", "tables.safetensors"])
def test_a_missing_part(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    message = refused(bundle)
    assert "is incomplete" in message
    assert name in message


def test_damaged_tables(bundle: Path) -> None:
    (bundle / "tables.safetensors").write_bytes(b"\x00" * 40)
    assert "its tables.safetensors is not the one that bundle.json states" in refused(bundle)
    edit(bundle, lambda stated: stated.update(tables_sha256=sha256(b"\x00" * 40).hexdigest()))
    assert "tables.safetensors is damaged" in refused(bundle)


def test_swapped_tables(bundle: Path) -> None:
    """The sketch would mean something else, and no shape would tell."""
    path = bundle / "tables.safetensors"
    tensors = load_file(path)
    tensors["lens.directions"] = tensors["lens.directions"][:, ::-1].copy()
    save_file(tensors, path)
    assert "its tables.safetensors is not the one that bundle.json states" in refused(bundle)


@pytest.mark.parametrize("name", ["policy.onnx", "tables.safetensors"])
def test_any_bit_that_flips_is_noticed(bundle: Path, name: str) -> None:
    path = bundle / name
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place, bit in zip(rng.integers(len(whole), size=40), rng.integers(8, size=40), strict=True):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        assert f"its {name} is not the one that bundle.json states" in refused(bundle)
    path.write_bytes(whole)
    Bundle.load(bundle)


def test_a_part_that_is_too_large_is_not_read(bundle: Path) -> None:
    with (bundle / "policy.onnx").open("r+b") as file:
        file.truncate(1 << 40)  # a hole; it takes no room
    assert "policy.onnx cannot be read: it has 1099511627776 bytes" in refused(bundle)
    (bundle / "policy.onnx").unlink()
    os.mkfifo(bundle / "policy.onnx")  # would never end
    assert "policy.onnx cannot be read: it is not a regular file" in refused(bundle)


@pytest.mark.parametrize("where", ["a file", "long", "a folder of a file"])
def test_a_place_that_is_no_folder(bundle: Path, where: str) -> None:
    place = {"a file": bundle / "bundle.json", "long": Path("x" * 5000), "a folder of a file": bundle / "bundle.json" / "x"}[
        where
    ]
    message = refused(place)
    assert "cannot be read" in message
    assert len(message) < 400


# Each changes one thing in bundle.json that has some other value.
MUTATIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    **{f"without {name}": lambda m, name=name: m.pop(name) for name in (f.name for f in fields(BundleMeta))},  # type: ignore[misc]
    **{
        f"{name} is null": lambda m, name=name: m.update({name: None})
        for name in ("name", "schema", "seen", "parity", "provenance")
    },  # type: ignore[misc]
    "more": lambda m: m.update(surprise=1),
    "empty name": lambda m: m.update(name=""),
    "name with a path": lambda m: m.update(name="../x"),
    "hidden name": lambda m: m.update(name=".x"),
    "long name": lambda m: m.update(name="x" * 81),
    "name on two lines": lambda m: m.update(name="a\nb"),
    "name that ends a line": lambda m: m.update(name="a\n"),
    "name is a number": lambda m: m.update(name=3),
    "other system": lambda m: m.update(system="tea"),
    "other hash": lambda m: m.update(schema_hash="0123456789abcdef"),
    "hash is none": lambda m: m.update(schema_hash="zz"),
    "schema is a list": lambda m: m.update(schema=[]),
    "other schema, same hash": lambda m: m["schema"]["features"].pop(),
    "other bounds, same hash": lambda m: m["schema"]["knobs"][0].update(high=2.0),
    "row is a number": lambda m: m["schema"]["knobs"].append(3),
    "seen too short": lambda m: (m["seen"]["low"].pop(), m["seen"]["high"].pop()),
    "seen of two lengths": lambda m: m["seen"]["low"].pop(),
    "seen upside down": lambda m: m["seen"]["low"].__setitem__(0, 1e6),
    "seen is infinite": lambda m: m["seen"]["high"].__setitem__(0, math.inf),
    "seen is not a number": lambda m: m["seen"]["high"].__setitem__(0, math.nan),
    "seen is text": lambda m: m["seen"]["high"].__setitem__(0, "1"),
    "seen has more": lambda m: m["seen"].update(mean=[]),
    "preferences without an end": lambda m: m["preferences"].pop("high"),
    "preferences without a weight": lambda m: m["preferences"]["low"].pop("latency"),
    "preference is negative": lambda m: m["preferences"]["low"].update(latency=-1.0),
    "preference is infinite": lambda m: m["preferences"]["high"].update(cost=math.inf),
    "preference is yes": lambda m: m["preferences"]["high"].update(cost=True),
    "no network": lambda m: m.pop("network"),
    "state of nothing": lambda m: m["network"].update(state=[0]),
    "state is negative": lambda m: m["network"].update(state=[-4]),
    "state without end": lambda m: m["network"].update(state=[2**62]),
    "states without end": lambda m: m["network"].update(state=[1] * 17),
    "state that the policy has not": lambda m: m["network"].update(state=[8]),
    "state is text": lambda m: m["network"].update(state=["8"]),
    "masks without choices": lambda m: m["network"].update(masked=True),
    "masks are a number": lambda m: m["network"].update(masked=1),
    "no choices": lambda m: m["network"].update(choices=[]),
    "choices that the policy has not": lambda m: m["network"].update(choices=[STATED] * 3),
    "a choice of nothing": lambda m: m["network"].update(choices=[{}] * KNOBS),
    "a choice of other knobs": lambda m: m["network"].update(choices=[{**STATED, "glory": 1}] * KNOBS),
    "a choice out of range": lambda m: m["network"].update(choices=[{**STATED, "offload_budget": 1.5}] * KNOBS),
    "a choice that is not a number": lambda m: m["network"].update(choices=[{**STATED, "offload_budget": math.nan}] * KNOBS),
    "half an exit": lambda m: m["network"].update(choices=[{**STATED, "exit_index": 0.5}] * KNOBS),
    "a choice that is yes": lambda m: m["network"].update(choices=[{**STATED, "exit_index": True}] * KNOBS),
    "a choice as text": lambda m: m["network"].update(choices=[{**STATED, "exit_index": "0"}] * KNOBS),
    "unknown weight": lambda m: m["preferences"]["high"].update(glory=1.0),
    "no tokens": lambda m: m.update(max_new_tokens=0),
    "half a token": lambda m: m.update(max_new_tokens=1.5),
    "tokens as text": lambda m: m.update(max_new_tokens="10"),
    "infinite tokens": lambda m: m.update(max_new_tokens=math.inf),
    "fingerprint is a number": lambda m: m["fingerprints"].update(slm=3),
    "fingerprint is empty": lambda m: m["fingerprints"].update(slm=""),
    "fingerprints are a list": lambda m: m.update(fingerprints=[]),
    "policy hash is short": lambda m: m.update(policy_sha256=m["policy_sha256"][:-1]),
    "policy hash is another": lambda m: m.update(policy_sha256="0" * 64),
    "tables hash is another": lambda m: m.update(tables_sha256="0" * 64),
    "parity is not a number": lambda m: m["parity"].update(max_abs_difference=math.nan),
    "parity is too large": lambda m: m["parity"].update(max_abs_difference=1.1e-5),
    "parity is negative": lambda m: m["parity"].update(max_abs_difference=-1e-6),
    "parity of nothing": lambda m: m["parity"].update(samples=0),
    "provenance is a list": lambda m: m.update(provenance=[]),
    "provenance is not a number": lambda m: m["provenance"].update(train_seconds=math.nan),
    "version is text": lambda m: m.update(format_version="5"),
    "version is half": lambda m: m.update(format_version=5.5),
    "version is yes": lambda m: m.update(format_version=True),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_description_that_is_wrong_anywhere(bundle: Path, name: str) -> None:
    edit(bundle, MUTATIONS[name])
    message = refused(bundle)
    assert len(message) < 2000
    assert "\n" not in message


def test_a_number_of_thousands_of_digits_is_refused(bundle: Path) -> None:
    text = (bundle / "bundle.json").read_text()
    (bundle / "bundle.json").write_text(text.replace('"provenance": {', f'"provenance": {{"n": {"9" * 5000}, ', 1))
    assert "bundle.json" in refused(bundle)


def test_choices_of_the_right_number_and_kind_are_not_what_is_refused(bundle: Path) -> None:
    """As many choices as the policy has outputs: what else the mutations above change is what is refused."""
    edit(bundle, lambda stated: stated["network"].update(choices=[STATED] * KNOBS))
    np.testing.assert_array_equal(Bundle.load(bundle).controller(SCHEMA).predict(ROWS[0])[0], SCHEMA.action(ALWAYS))


# ---------------------------------------------------------------- schema


def test_another_schema_is_explained(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"knobs row 2: name exit_index, .*high 1, .* there, .*high 2, .* here"):
        Bundle.load(bundle).controller(synera_schema(3))


# ---------------------------------------------------------------- export


def test_a_policy_that_acts_otherwise_fails_its_check(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"differs from the trained one by"):
        Parity.of(*(each.predict(ROWS)[0] for each in (Bundle.load(bundle).controller(SCHEMA), FixedRule(ALWAYS, SCHEMA))))


def test_a_policy_that_is_not_a_number_fails_its_check(bundle: Path) -> None:
    acts = Bundle.load(bundle).controller(SCHEMA).predict(ROWS)[0]
    with pytest.raises(BundleError, match="nan"):
        Parity.of(acts, np.full_like(acts, np.nan))
    with pytest.raises(BundleError, match="nan"):
        Parity.of(np.full_like(acts, np.nan), acts)


def test_a_new_export_replaces_the_old_one_whole(bundle: Path) -> None:
    loaded = Bundle.load(bundle)
    acts = loaded.controller(SCHEMA)
    (bundle / "stale").write_text("from an earlier version")
    parity = Parity.of(acts.predict(ROWS)[0], acts.predict(ROWS)[0])
    assert (parity.max_abs_difference, parity.samples) == (0.0, 64)
    replace(loaded, meta=replace(loaded.meta, parity=parity)).save(bundle)
    written = Bundle.load(bundle)
    assert written.meta.parity == parity
    assert sorted(p.name for p in bundle.parent.iterdir()) == ["bundle"]
    assert sorted(p.name for p in bundle.iterdir()) == ["bundle.json", "policy.onnx", "tables.safetensors"]
    np.testing.assert_array_equal(written.controller(SCHEMA).predict(ROWS)[0], acts.predict(ROWS)[0])


# ---------------------------------------------------------------- where it may act


def test_a_world_of_something_else_is_refused(bundle: Path, pair: Recorded) -> None:
    """Whatever it is that the world names."""
    loaded, here = Bundle.load(bundle), pair.env().deployment()
    assert {"slm", "tokenizer", "lens"} <= set(here.fingerprints) == set(loaded.meta.fingerprints)
    loaded.require(here)
    for what, fingerprint in here.fingerprints.items():
        with pytest.raises(BundleError, match=f"the {what} {fingerprint}, here it would meet other"):
            loaded.require(Deployment(fingerprints={**here.fingerprints, what: "other"}))


def test_a_bundle_against_another_llm_is_refused(bundle: Path, pair: Recorded) -> None:
    """Recorded graphs know their LLM, a live world asks its cloud; where either does not know, nothing is said."""
    edit(bundle, lambda stated: stated["fingerprints"].update(llm=pair.graphs.meta.llm_fingerprint))
    loaded = Bundle.load(bundle)
    loaded.require(Deployment(fingerprints={"llm": pair.graphs.meta.llm_fingerprint}))
    loaded.require(Deployment())
    with pytest.raises(BundleError, match=f"with the llm {pair.graphs.meta.llm_fingerprint}, here it would meet swapped"):
        loaded.require(Deployment(fingerprints={"llm": "swapped"}))


CHAT = Frame("<user> ", " <assistant>", special_tokens=False, ends=(2,))


def test_a_bundle_states_how_its_prompts_were_read(bundle: Path, pair: Recorded) -> None:
    assert Bundle.load(bundle).meta.frame == Frame()
    edit(bundle, lambda stated: stated.update(frame=asdict(CHAT)))
    assert Bundle.load(bundle).meta.frame == CHAT


def test_a_world_whose_prompts_are_read_otherwise_is_refused(bundle: Path, pair: Recorded) -> None:
    """Where either does not know how, nothing is said."""
    loaded, here = Bundle.load(bundle), pair.env().deployment()
    chat = SyneraReplayEnv(pair.graphs.with_meta(replace(pair.graphs.meta, frame=CHAT.stated))).deployment()
    with pytest.raises(BundleError, match="trained on prompts read as written, here they are read between '<user> '"):
        loaded.require(chat)
    edit(bundle, lambda stated: stated.update(frame=asdict(CHAT)))
    Bundle.load(bundle).require(chat)
    Bundle.load(bundle).require(replace(here, frame=None))
    with pytest.raises(BundleError, match=r"trained on prompts read between '<user> ' and ' <assistant>', here .* as written"):
        Bundle.load(bundle).require(here)


@pytest.mark.parametrize(
    "frame", [{}, {"before": ""}, {"before": 1, "after": "", "special_tokens": True, "ends": []}, "chat", 3]
)
def test_a_frame_that_is_none_is_refused(bundle: Path, frame: object) -> None:
    edit(bundle, lambda stated: stated.update(frame=frame))
    with pytest.raises(BundleError, match=r"frame|does not state all"):
        Bundle.load(bundle)


OTHERS = {
    "latency": Preference(latency=0.3),
    "no latency": Preference(latency=0.0),
    "quality": Preference(quality=2.0),
    "energy": Preference(energy=0.0051),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_bundle_of_one_preference_serves_no_other(bundle: Path, env: SyneraReplayEnv, other: str) -> None:
    loaded = Bundle.load(bundle)
    acts = loaded.controller(SCHEMA)
    for tried in (
        lambda preference: loaded.require(env.deployment(), preference),
        lambda preference: ControllerPolicy(acts, SCHEMA, preference),
        lambda preference: answer(env, acts, make_plan(env, 1, preference=preference)[0]),
    ):
        tried(None)
        tried(Preference())
        with pytest.raises(BundleError, match=r"'run' was not trained for the preference .*--preference sampled"):
            tried(OTHERS[other])


def test_a_bundle_of_sampled_preferences_serves_those_that_it_met(bundle: Path) -> None:
    low, high = (asdict(end) for end in (PreferenceRange.of(None).low, PreferenceRange.of(None).high))
    edit(bundle, lambda stated: stated.update(preferences={"low": low, "high": high}))
    acts = Bundle.load(bundle).controller(SCHEMA)
    for served in (Preference(), Preference(latency=0.3), Preference(energy=0.005 / 3, traffic=0.3)):
        ControllerPolicy(acts, SCHEMA, served)
    with pytest.raises(BundleError, match=r"preference latency=0\.31, outside 0\.0333333\.\.0\.3; prefer"):
        ControllerPolicy(acts, SCHEMA, Preference(latency=0.31))


def test_rules_serve_any_preference() -> None:
    for rule in (FixedRule(ALWAYS, SCHEMA), RandomRule(SCHEMA)):
        assert not isinstance(rule, Limited)
        ControllerPolicy(rule, SCHEMA, Preference(latency=9.0))


def test_what_training_never_met_changes_nothing(bundle: Path) -> None:
    """It met one preference only; what it would do for another is arbitrary, so it is not shown another."""
    loaded = Bundle.load(bundle)
    acts = loaded.controller(SCHEMA)
    low, high = (np.array(end, np.float32) for end in (loaded.meta.seen.low, loaded.meta.seen.high))
    weights = [i for i, entry in enumerate(SCHEMA.entries) if entry.startswith("weight_")]
    assert (low[weights] == high[weights]).all()
    np.testing.assert_array_equal(acts.predict(ROWS)[0], acts.predict(np.clip(ROWS, low, high))[0])
    inside = np.clip(ROWS, low, high)
    assert np.abs(acts.predict(inside)[0] - acts.predict(inside[::-1])[0]).max() > 1e-3  # it does look at the rest
