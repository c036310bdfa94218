"""The deployable bundle: a folder with an ONNX policy, the lens, and a JSON that says what they fit. Never pickle.

What does not live here: training (learned.py) and the runtime that a loaded bundle drives.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors.numpy import save_file

from agents.base import Controller
from synera_env import CheckpointError, Lens
from synera_env.synera.schema import FEATURES, KNOB_NAMES, Encoder

FORMAT_VERSION = 1
PARITY_LIMIT = 1e-5
"""Largest action difference between the trained policy and the exported one, at export."""


class BundleError(ValueError):
    """A bundle that is missing, damaged, of another schema, or that failed its parity check."""


@dataclass(frozen=True)
class Normaliser:
    """Observation statistics: (x - mean) / sqrt(variance + epsilon), clipped."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]
    clip: float
    epsilon: float

    def __call__(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """Normalise observations [..., features] as `stable_baselines3.common.vec_env.VecNormalize` does."""
        scaled = (observation - np.array(self.mean)) / np.sqrt(np.array(self.variance) + self.epsilon)
        return np.clip(scaled, -self.clip, self.clip).astype(np.float32)


@dataclass(frozen=True)
class BundleMeta:
    """The JSON of a bundle."""

    name: str
    schema_hash: str
    exits: int
    normaliser: Normaliser
    max_new_tokens: int
    slm_fingerprint: str
    tokenizer_hash: str
    lens_fingerprint: str
    parity: dict[str, float]
    """`max_abs_difference` over `samples` observations, at export."""
    provenance: dict[str, Any]
    """Command, configuration, data, versions: what made it."""
    knobs: dict[str, tuple[float, float]] = field(default_factory=lambda: {name: (-1.0, 1.0) for name in KNOB_NAMES})
    """Bounds of each action entry, in order."""
    features: tuple[str, ...] = tuple(f.name for f in FEATURES)
    format_version: int = FORMAT_VERSION


class OnnxController:
    """A loaded bundle; implements :class:`agents.base.Controller`. Thread-safe."""

    def __init__(self, meta: BundleMeta, lens: Lens, policy: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a tiny network; leave the cores to the models
        try:
            self._policy = onnxruntime.InferenceSession(policy, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no public base class
            raise BundleError(f"the policy of bundle {meta.name!r} is not a usable ONNX model: {error}") from None
        self.meta, self.lens = meta, lens
        self._input = self._policy.get_inputs()[0].name

    @classmethod
    def load(cls, folder: str | Path) -> OnnxController:
        """Load a bundle folder.

        Raises:
            BundleError: it is missing, damaged, or was made for another observation or action schema.
        """
        folder = Path(folder)
        meta = _read_meta(folder)
        expected = Encoder(meta.exits).schema_hash
        if meta.schema_hash != expected:
            raise BundleError(
                f"bundle {folder} was made for schema {meta.schema_hash}, this version has {expected}; "
                "retrain it with this version, or deploy it with the version that made it"
            )
        try:
            lens, policy = Lens.load(folder / "lens.safetensors"), (folder / "policy.onnx").read_bytes()
        except (OSError, CheckpointError) as error:
            raise BundleError(f"bundle {folder} is incomplete: {error}") from None
        if lens.fingerprint != meta.lens_fingerprint:
            raise BundleError(
                f"bundle {folder}: its lens is {lens.fingerprint}, bundle.json names {meta.lens_fingerprint}; export it again"
            )
        return cls(meta, lens, policy)

    def require_lens(self, lens: Lens) -> None:
        """Refuse an environment whose graphs were recorded with another lens: its observations mean something else.

        Raises:
            BundleError: the lenses differ.
        """
        if lens.fingerprint != self.lens.fingerprint:
            raise BundleError(
                f"bundle {self.meta.name!r} was trained with the lens {self.lens.fingerprint}, these graphs hold {lens.fingerprint}; "
                "record them with synera record --lens BUNDLE/lens.safetensors"
            )

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`; always the most likely action."""
        batch = np.atleast_2d(np.asarray(observation, np.float32))
        (actions,) = self._policy.run(None, {self._input: self.meta.normaliser(batch)})
        actions = np.clip(actions, -1.0, 1.0)
        return (actions if np.ndim(observation) > 1 else actions[0]), state


def _read_meta(folder: Path) -> BundleMeta:
    path = folder / "bundle.json"
    try:
        stated = json.loads(path.read_text())
        if stated.get("format_version") != FORMAT_VERSION:
            raise BundleError(f"{path} is of bundle format {stated.get('format_version')}, this version reads {FORMAT_VERSION}")
        n = stated.pop("normaliser")
        normaliser = Normaliser(tuple(n["mean"]), tuple(n["variance"]), n["clip"], n["epsilon"])
        return BundleMeta(normaliser=normaliser, **stated)
    except FileNotFoundError:
        raise BundleError(
            f"no bundle at {folder}: it has no bundle.json; synera train writes one to runs/NAME/bundle"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, NotADirectoryError) as error:
        raise BundleError(f"{path} is damaged: {error!r}; export it again") from None


def export(
    policy_onnx: bytes, meta: BundleMeta, lens: Lens, folder: Path, reference: Controller, observations: NDArray[np.float32]
) -> BundleMeta:
    """Check parity and write the folder, whole or not at all.

    Args:
        policy_onnx: the network as ONNX: normalised observation [batch, features] to action [batch, 6].
        meta: the description; its parity is filled in here.
        lens: what the device must carry.
        folder: where to write; an earlier bundle there is replaced.
        reference: the controller as trained, which the bundle must equal.
        observations: real observations [samples, features] for the check.

    Returns:
        The meta as written.

    Raises:
        BundleError: the exported policy acts differently by more than `PARITY_LIMIT`.
    """
    exported, _ = OnnxController(meta, lens, policy_onnx).predict(observations)
    wanted, _ = reference.predict(observations, deterministic=True)
    difference = float(np.abs(exported - wanted).max())
    if not difference <= PARITY_LIMIT:
        raise BundleError(f"the exported policy differs from the trained one by {difference:.2e}, more than {PARITY_LIMIT:.0e}")
    parity = {"max_abs_difference": difference, "samples": float(len(observations))}
    meta = BundleMeta(**{**vars(meta), "parity": parity})
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    (part / "policy.onnx").write_bytes(policy_onnx)
    save_file(lens.tensors(), part / "lens.safetensors")
    (part / "bundle.json").write_text(json.dumps(asdict(meta), indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return meta
