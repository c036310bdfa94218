"""The deployable bundle: a folder with an ONNX policy, the tables its device must carry, and a JSON that says what they fit.

Never pickle. What does not live here: training (learning/), the making of the ONNX file (export.py) and its running
(running.py), the runtime.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load, save

from agents.choices import OnnxMaskedChooser
from agents.errors import BundleError
from agents.onnx_policy import LARGEST_BYTES
from agents.running import Network, Running, running
from runtime.settings import shown
from synera_env import (
    EXACT,
    Deployment,
    Frame,
    Preference,
    PreferenceRange,
    Schema,
    SettingError,
    SyneraError,
    parse_json,
    read_file,
    replacing_folder,
)

FORMAT_VERSION = 5
PARITY_LIMIT = 1e-5
"""Largest action difference between the trained policy and the exported one, at export."""
POLICY, TABLES, META = "policy.onnx", "tables.safetensors", "bundle.json"
NAME_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}$"
"""Names of runs and bundles: letters, digits, `._-`, no dot first, 80 characters at most."""
_LARGEST = {POLICY: LARGEST_BYTES, TABLES: 1 << 30, META: 16 << 20}  # bytes
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Seen:
    """What training has met of each entry of the observation; anything outside is shown to the policy as the nearest of it."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or any(not low <= high for low, high in zip(self.low, self.high, strict=True)):
            raise SettingError(
                f"low and high must be of one length, and low nowhere above high: {len(self.low)}, {len(self.high)}"
            )


@dataclass(frozen=True)
class Parity:
    """How the exported policy was held against the trained one."""

    max_abs_difference: Annotated[float, Field(ge=0, le=PARITY_LIMIT)]
    """Of any entry of an action; where it chooses, by how much less it scores what the trained one chose, as a share of the largest
    score if that is above 1."""
    samples: Annotated[int, Field(ge=1)]
    """Observations."""

    @classmethod
    def of(cls, exported: NDArray[np.floating], trained: NDArray[np.floating]) -> Self:
        """Compare what should be alike.

        Args:
            exported: actions of the policy as it will be deployed, or its best scores, [samples, ...].
            trained: those of the policy as it was trained, or the scores of what it chose, likewise.

        Raises:
            BundleError: they differ by more than `PARITY_LIMIT`.
        """
        difference = float(np.abs(exported - trained).max())
        if not difference <= PARITY_LIMIT:
            raise BundleError(
                f"the exported policy differs from the trained one by {difference:.2e}, more than {PARITY_LIMIT:.0e}"
            )
        return cls(difference, len(exported))


@dataclass(frozen=True)
class Training:
    """What of its training a bundle must say."""

    name: str
    """See `NAME_PATTERN`."""
    preferences: PreferenceRange
    seen: Seen
    provenance: Mapping[str, Any]
    """Command, configuration, data, versions: for readers, and nothing else."""


@dataclass(frozen=True)
class BundleMeta:
    """The JSON of a bundle. All of it is checked, when it is loaded or before it acts, but for the provenance."""

    __pydantic_config__ = EXACT

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    system: Annotated[str, Field(min_length=1, max_length=80)]
    schema_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    schema: dict[str, list[dict[str, Any]]]
    """The rows that the hash is of (`synera_env.Schema.describe`), so that a mismatch can be explained."""
    network: Network
    seen: Seen
    preferences: PreferenceRange
    """Those that it was trained for."""
    max_new_tokens: Annotated[int, Field(ge=1)] | None
    """Where the answers that it was trained on were cut; a device cuts its answers there."""
    frame: Frame | None
    """How the prompts that it was trained on became tokens; a device reads its prompts in the same way. None: not known."""
    fingerprints: dict[str, Annotated[str, Field(min_length=1, max_length=200)]]
    """Of what its observations depend on (such as the SLM, the LLM, the tokenizer, the lens), by what it is."""
    policy_sha256: _Sha256
    tables_sha256: _Sha256
    parity: Parity
    provenance: dict[str, Any]
    """See :class:`Training`."""
    format_version: Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)] = FORMAT_VERSION

    def require(self, schema: Schema) -> None:
        """Refuse another schema than the bundle was made for.

        Raises:
            BundleError: it is another.
        """
        if (self.system, self.schema_hash, self.schema) != (schema.system, schema.hash, schema.describe()):
            raise BundleError(
                f"bundle {self.name!r} was made for schema {self.schema_hash} of {self.system}, it would act in {schema.hash} "
                f"of {schema.system} ({schema.difference(self.schema) or 'the rows are the same'}); "
                "train one for this schema, or deploy it with the version that made it"
            )
        if (stated := len(self.seen.low)) != len(schema.low):
            raise BundleError(
                f"bundle {self.name!r} states what training has met of {stated} entries, an observation has {len(schema.low)}; export it again"
            )

    def serve(self, preference: Preference) -> None:
        """See :class:`agents.base.Limited`."""
        if not (outside := self.preferences.outside(preference)):
            return
        way_out = "train one that serves any: synera train --preference sampled"
        if self.preferences.low != self.preferences.high:
            way_out = "prefer what is in this range, or train one for other weights"
        raise BundleError(f"bundle {self.name!r} was not trained for the preference {outside}; {way_out}")


@dataclass(frozen=True)
class Bundle:
    """A bundle as it lies on disk; `controller` makes it act."""

    meta: BundleMeta
    tensors: Mapping[str, NDArray[Any]]
    """The tables that the device must carry."""
    policy: bytes
    """ONNX: raw observation [batch, entries] to action [batch, knobs], or to scores [batch, choices]; with what it carries (`Network`)."""

    @classmethod
    def of(
        cls, policy: bytes, network: Network, schema: Schema, deployment: Deployment, training: Training, parity: Parity
    ) -> Self:
        """Describe a policy that was just trained."""
        meta = BundleMeta(
            name=training.name,
            system=schema.system,
            schema_hash=schema.hash,
            schema=schema.describe(),
            network=network,
            seen=training.seen,
            preferences=training.preferences,
            max_new_tokens=deployment.max_new_tokens,
            frame=deployment.frame,
            fingerprints=dict(deployment.fingerprints),
            policy_sha256=_sha256(policy),
            tables_sha256=_sha256(save(dict(deployment.tensors))),
            parity=parity,
            provenance=dict(training.provenance),
        )
        return cls(meta, deployment.tensors, policy)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a bundle folder.

        Raises:
            BundleError: it is missing or damaged.
        """
        folder = Path(folder)
        meta = _read_meta(folder)
        policy, tables = _read(folder, POLICY, meta.policy_sha256), _read(folder, TABLES, meta.tables_sha256)
        try:
            tensors = load(tables)
        except SafetensorError as error:
            raise BundleError(f"bundle {_plain(folder)}: {TABLES} is damaged: {error}; export it again") from None
        return cls(meta, tensors, policy)

    def controller(self, schema: Schema) -> BundleController:
        """Make it act.

        Args:
            schema: what it will see and set.

        Raises:
            BundleError: it was made for another schema, or its policy is not one that is exported for this schema.
        """
        self.meta.require(schema)
        kind = MaskedBundleController if self.meta.network.masked else BundleController
        return kind(self.meta, running(self.policy, self.meta.network, schema, self.meta.name))

    def require(self, deployment: Deployment, preference: Preference | None = None) -> None:
        """Refuse a world that was recorded with, or a device that carries, something else than the bundle was trained with,
        and a preference that it was not trained for.

        Args:
            deployment: of the world, or of the device and its cloud.
            preference: what it will be told to value; None is the default.

        Raises:
            BundleError: a fingerprint or the frame of prompts differs, or the preference is outside of the range.
        """
        for what, here in deployment.fingerprints.items():
            if (wanted := self.meta.fingerprints.get(what, here)) != here:
                raise BundleError(
                    f"bundle {self.meta.name!r} was trained with the {what} {wanted}, here it would meet {here}; "
                    f"train one here, or use what it was trained with (its tables: BUNDLE/{TABLES})"
                )
        if None not in (deployment.frame, self.meta.frame) and deployment.frame != self.meta.frame:
            raise BundleError(
                f"bundle {self.meta.name!r} was trained on prompts read {self.meta.frame}, here they are read {deployment.frame}; "
                "train one here, or read them alike (the frame that its bundle.json states)"
            )
        self.meta.serve(preference or Preference())

    def save(self, folder: Path) -> None:
        """Write the folder, whole or not at all; an earlier bundle there is replaced."""
        with replacing_folder(folder) as part:
            (part / POLICY).write_bytes(self.policy)
            (part / TABLES).write_bytes(save(dict(self.tensors)))
            (part / META).write_text(json.dumps(asdict(self.meta), indent=1, allow_nan=False) + "\n")


class BundleController:
    """A bundle that acts; implements :class:`agents.base.Controller` and :class:`agents.base.Limited`."""

    def __init__(self, meta: BundleMeta, acts: Running) -> None:
        self.meta, self._acts = meta, acts

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`; always the most likely action."""
        return self._acts.predict(observation, state, episode_start, deterministic)

    def serve(self, preference: Preference) -> None:
        """See :class:`agents.base.Limited`."""
        self.meta.serve(preference)


class MaskedBundleController(BundleController):
    """A bundle that acts, and must be told what cannot be done; implements :class:`agents.base.Masked`, too."""

    _acts: OnnxMaskedChooser

    def masks(self, point: Any) -> NDArray[np.bool_]:
        """See :class:`agents.base.Masked`."""
        return self._acts.masks(point)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Masked`; always the best choice of those that can be done."""
        return self._acts.predict(observation, state, episode_start, deterministic, action_masks)


@dataclass(frozen=True)
class _Version:
    format_version: int


def _read_meta(folder: Path) -> BundleMeta:
    path, content = folder / META, _read(folder, META)
    try:
        version = parse_json(content, _Version, _plain(path)).format_version
        if version != FORMAT_VERSION:
            raise BundleError(f"{_plain(path)} is of bundle format {version}, this version reads {FORMAT_VERSION}")
        meta = parse_json(content, BundleMeta, _plain(path))
        if json.loads(content) != json.loads(
            json.dumps(asdict(meta), allow_nan=False)
        ):  # something below a field was left to its default
            raise BundleError(f"{_plain(path)} does not state all that a bundle states")
    except (SyneraError, ValueError) as error:  # ValueError: a number of thousands of digits, in the provenance
        raise BundleError(f"{error}; export it again") from None
    return meta


def _read(folder: Path, name: str, sha256: str = "") -> bytes:
    """Return a part of a bundle, which must be a file of a sensible size, and of the hash that is stated."""
    missing = f"bundle {_plain(folder)} is incomplete: it has no {name}; export it again"
    if name == META:
        missing = f"no bundle at {_plain(folder)}: it has no {name}; synera train writes one to runs/NAME/bundle"
    try:
        content = read_file(folder / name, missing, _LARGEST[name])
    except SyneraError as error:
        raise BundleError(str(error)) from None
    if sha256 and (found := _sha256(content)) != sha256:
        raise BundleError(
            f"bundle {_plain(folder)} is damaged: its {name} is not the one that {META} states ({found[:16]}..., not {sha256[:16]}...); "
            "export it again"
        )
    return content


def _plain(path: Path) -> str:
    """A path as a message may carry it: cut, on one line."""
    return shown(str(path), 200)[1:-1]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
