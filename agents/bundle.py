"""The deployable bundle: a folder with an ONNX policy, the tables its device must carry, and a JSON that says what they fit.

Never pickle. What does not live here: training (learned.py), the making of the ONNX file (export.py), the runtime.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from agents.base import Controller
from synera_env import Deployment, Schema, SyneraError, replacing_folder

FORMAT_VERSION = 2
PARITY_LIMIT = 1e-5
"""Largest action difference between the trained policy and the exported one, at export."""
POLICY, TABLES, META = "policy.onnx", "tables.safetensors", "bundle.json"


class BundleError(SyneraError, ValueError):
    """A bundle that is missing, damaged, made for something else, or that failed its parity check."""


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
    system: str
    schema_hash: str
    schema: dict[str, list[dict[str, Any]]]
    """The rows that the hash is of (`synera_env.Schema.describe`), so that a mismatch can be explained."""
    normaliser: Normaliser
    max_new_tokens: int | None
    """Where the answers that it was trained on were cut."""
    fingerprints: dict[str, str]
    """Of what its observations depend on (such as the SLM, the tokenizer, the lens), by what it is."""
    tables: str
    """Hash of the tables that the device must carry."""
    parity: dict[str, float]
    """`max_abs_difference` over `samples` observations, at export."""
    provenance: dict[str, Any]
    """Command, configuration, data, versions: what made it."""
    format_version: int = FORMAT_VERSION

    @classmethod
    def of(
        cls, name: str, schema: Schema, normaliser: Normaliser, deployment: Deployment, provenance: Mapping[str, Any]
    ) -> Self:
        """Describe a policy that was just trained; its parity is not known yet."""
        return cls(
            name=name,
            system=schema.system,
            schema_hash=schema.hash,
            schema=schema.describe(),
            normaliser=normaliser,
            max_new_tokens=deployment.max_new_tokens,
            fingerprints=dict(deployment.fingerprints),
            tables=_hash(deployment.tensors),
            parity={},
            provenance=dict(provenance),
        )


@dataclass(frozen=True)
class Bundle:
    """A bundle as it lies on disk; `controller` makes it act."""

    meta: BundleMeta
    tensors: Mapping[str, NDArray[Any]]
    """The tables that the device must carry."""
    policy: bytes
    """ONNX: normalised observation [batch, entries] to action [batch, knobs]."""

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a bundle folder.

        Raises:
            BundleError: it is missing or damaged.
        """
        folder = Path(folder)
        meta = _read_meta(folder)
        try:
            tensors, policy = load_file(folder / TABLES), (folder / POLICY).read_bytes()
        except (OSError, SafetensorError) as error:
            raise BundleError(f"bundle {folder} is incomplete: {folder / TABLES} or {folder / POLICY}: {error}") from None
        if (found := _hash(tensors)) != meta.tables:
            raise BundleError(f"bundle {folder}: its tables are {found}, {META} names {meta.tables}; export it again")
        return cls(meta, tensors, policy)

    def controller(self, schema: Schema) -> OnnxController:
        """Make it act.

        Args:
            schema: what it will see and set.

        Raises:
            BundleError: it was made for another schema, or its policy is damaged.
        """
        if self.meta.schema_hash != schema.hash:
            raise BundleError(
                f"bundle {self.meta.name!r} was made for schema {self.meta.schema_hash} of {self.meta.system}, it would act in {schema.hash} "
                f"of {schema.system} ({schema.difference(self.meta.schema) or 'the rows are the same'}); "
                "train one for this schema, or deploy it with the version that made it"
            )
        return OnnxController(self.meta, self.policy)

    def require(self, deployment: Deployment) -> None:
        """Refuse a world that was recorded with, or a device that carries, something else than the bundle was trained with.

        Raises:
            BundleError: a fingerprint differs.
        """
        for what, here in deployment.fingerprints.items():
            if (wanted := self.meta.fingerprints.get(what, here)) != here:
                raise BundleError(
                    f"bundle {self.meta.name!r} was trained with the {what} {wanted}, here it would meet {here}; "
                    f"train one here, or use what it was trained with (its tables: BUNDLE/{TABLES})"
                )

    def save(self, folder: Path) -> None:
        """Write the folder, whole or not at all; an earlier bundle there is replaced."""
        with replacing_folder(folder) as part:
            (part / POLICY).write_bytes(self.policy)
            (part / TABLES).write_bytes(save(dict(self.tensors)))
            (part / META).write_text(json.dumps(asdict(self.meta), indent=1) + "\n")

    def checked(self, reference: Controller, observations: NDArray[np.float32]) -> Bundle:
        """Return the bundle with its parity stated.

        Args:
            reference: the controller as trained, which the bundle must equal.
            observations: real observations [samples, entries].

        Raises:
            BundleError: the exported policy acts differently by more than `PARITY_LIMIT`.
        """
        exported, _ = OnnxController(self.meta, self.policy).predict(observations)
        wanted, _ = reference.predict(observations, deterministic=True)
        difference = float(np.abs(exported - wanted).max())
        if not difference <= PARITY_LIMIT:
            raise BundleError(
                f"the exported policy differs from the trained one by {difference:.2e}, more than {PARITY_LIMIT:.0e}"
            )
        parity = {"max_abs_difference": difference, "samples": float(len(observations))}
        return replace(self, meta=replace(self.meta, parity=parity))


class OnnxController:
    """A bundle that acts; implements :class:`agents.base.Controller`. Thread-safe."""

    def __init__(self, meta: BundleMeta, policy: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a tiny network; leave the cores to the models
        try:
            self._policy = onnxruntime.InferenceSession(policy, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no public base class
            raise BundleError(f"the policy of bundle {meta.name!r} is not a usable ONNX model: {error}") from None
        self.meta = meta
        self._input = self._policy.get_inputs()[0].name

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`; always the most likely action."""
        batch = np.atleast_2d(np.asarray(observation, np.float32))
        (actions,) = self._policy.run(None, {self._input: self.meta.normaliser(batch)})
        actions = np.clip(actions, -1.0, 1.0)
        return (actions if np.ndim(observation) > 1 else actions[0]), state


def _hash(tensors: Mapping[str, NDArray[Any]]) -> str:
    return hashlib.sha256(save(dict(tensors))).hexdigest()[:16]


def _read_meta(folder: Path) -> BundleMeta:
    path = folder / META
    try:
        stated = json.loads(path.read_text())
        if stated.get("format_version") != FORMAT_VERSION:
            raise BundleError(
                f"{path} is of bundle format {stated.get('format_version')}, this version reads {FORMAT_VERSION}; export it again"
            )
        n = stated.pop("normaliser")
        normaliser = Normaliser(tuple(n["mean"]), tuple(n["variance"]), n["clip"], n["epsilon"])
        return BundleMeta(normaliser=normaliser, **stated)
    except FileNotFoundError:
        raise BundleError(f"no bundle at {folder}: it has no {META}; synera train writes one to runs/NAME/bundle") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, NotADirectoryError) as error:
        raise BundleError(f"{path} is damaged: {error!r}; export it again") from None
