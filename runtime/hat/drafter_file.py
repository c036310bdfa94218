"""Files of what drafts: tensors, and as JSON in their metadata what they are of. Found, read and checked against their own words.

What does not live here: what the tensors are (adapter.py, medusa.py), and which of them a device takes (drafters.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Protocol, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from runtime.errors import CheckpointError
from runtime.settings import first_finding, shown

LARGEST_BYTES = 2**31
"""The paper's largest adapter has 105 M weights."""
Count = Annotated[int, Field(ge=1, le=2**20)]
"""A size."""
Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""Of the folder of a model, :func:`runtime.model.loading.fingerprint`."""


class StatedFile(Protocol):
    """What such a file states of itself."""

    @property
    def format(self) -> int:
        """Its version."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Its tensors, by name."""
        ...


S = TypeVar("S", bound=StatedFile)


@dataclass(frozen=True)
class Form(Generic[S]):
    """A kind of such files."""

    name: str
    """As in `no adapter at`."""
    one: str
    """As in `is not an adapter`."""
    file: str
    """Its name in a folder."""
    key: str
    """Of the metadata that states it."""
    format: int
    """Version; another one is refused."""
    stated: type[S]
    way_out: str

    def metadata(self, stated: S) -> dict[str, str]:
        """Return what a safetensors file holds beside its tensors."""
        return {self.key: TypeAdapter(self.stated).dump_json(stated).decode()}

    def find(self, path: str | Path) -> Path:
        """Return the file that a path names, itself or by its folder.

        Raises:
            CheckpointError: there is none, or it is far too large.
        """
        path = Path(path)
        try:
            file = path / self.file if path.is_dir() else path
            if file.is_file():
                if (size := file.stat().st_size) > LARGEST_BYTES:
                    raise CheckpointError(f"{file} has {size} bytes, and {self.one} at most {LARGEST_BYTES}; {self.way_out}")
                return file
        except (OSError, ValueError) as error:  # a name that is too long, or none at all
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(f"no {self.name} at {shown(str(path))}: {reason}; {self.way_out}") from None
        missing = f"it has no {self.file}" if file != path else "there is no such file"
        raise CheckpointError(f"no {self.name} at {path}: {missing}; {self.way_out}")

    def states(self, file: Path) -> bool:
        """Whether a file says that it is of this kind; one that cannot be read does not."""
        try:
            with safe_open(file, framework="pt") as opened:
                return self.key in (opened.metadata() or {})
        except (SafetensorError, OSError):
            return False

    def read(self, file: Path) -> tuple[S, dict[str, Tensor], str]:
        """Return what a file states, its tensors as they are stored, and its fingerprint.

        Raises:
            CheckpointError: it is damaged, or of another kind or format.
        """
        try:
            with safe_open(file, framework="pt") as opened:
                stated = self._stated(file, (opened.metadata() or {}).get(self.key))
                found, shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in set(opened.keys())}, stated.shapes
                if found != shapes:
                    wrong = next(name for name in (*shapes, *sorted(found)) if found.get(name) != shapes.get(name))
                    raise CheckpointError(
                        f"{file}: {shown(wrong)} has shape {found.get(wrong)}, but the file's own sizes ask for {shapes.get(wrong)}; "
                        f"it is damaged, {self.way_out}"
                    )
                weights = {name: opened.get_tensor(name) for name in shapes}
            with file.open("rb") as whole:
                digest = hashlib.file_digest(whole, "sha256").hexdigest()[:16]
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}; {self.way_out}") from None
        if bad := next((name for name, t in weights.items() if not (t.is_floating_point() and t.isfinite().all())), None):
            raise CheckpointError(f"{file}: {bad} holds values that are no finite numbers; it is damaged, {self.way_out}")
        return stated, weights, digest

    def _stated(self, file: Path, said: str | None) -> S:
        if said is None:
            raise CheckpointError(f"{file} is not {self.one}: it does not state what it is of; {self.way_out}")
        try:
            stated = TypeAdapter(self.stated).validate_json(said, strict=True)
        except ValidationError as error:
            raise CheckpointError(f"{file} is not {self.one}: {first_finding(error)}; {self.way_out}") from None
        if stated.format != self.format:
            raise CheckpointError(f"{file} is of format {stated.format}, and format {self.format} is read here; {self.way_out}")
        return stated

    def require_model(self, file: Path, stated_model: str, model: str | None) -> None:
        """Refuse a file of another model; None is one that is not known.

        Raises:
            CheckpointError: it was trained on another.
        """
        if model is not None and model != stated_model:
            raise CheckpointError(
                f"{file} was trained on the model {stated_model}, not on {model}; {self.way_out} --model FOLDER"
            )
