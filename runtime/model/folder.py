"""Model folders: where their files are, and what to say of one that is missing.

What does not live here: what the files hold (config.py, loading.py, tokenizer.py).
"""

from __future__ import annotations

import re
from pathlib import Path

from runtime.errors import CheckpointError
from runtime.settings import shown

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""How models are named on the Hugging Face hub."""
_LARGEST_JSON = 16 * 2**20  # bytes; what states a model has a few thousand
WANTED = "a Hugging Face folder (config.json, *.safetensors, tokenizer.json)"


def model_file(folder: str | Path, name: str, way_out: str = f"give {WANTED}") -> Path:
    """Return the path of a file of a model folder.

    Args:
        folder: the model folder.
        name: the file in it.
        way_out: what to do where the folder lacks it.

    Raises:
        CheckpointError: there is no such folder, or it lacks the file.
    """
    path = Path(folder) / name
    try:
        if path.is_file():
            return path
        there, is_folder = Path(folder).exists(), Path(folder).is_dir()
    except (OSError, ValueError) as error:  # a name that is too long, or none at all
        raise CheckpointError(f"no model at {shown(str(folder))}: {getattr(error, 'strerror', None) or error}") from None
    if is_folder:
        raise CheckpointError(f"no model at {folder}: it has no {name}; {way_out}")
    if there:
        raise CheckpointError(f"no model at {folder}: it is not a folder; give {WANTED}")
    if HUB_ID.fullmatch(str(folder)):
        raise CheckpointError(
            f"no model at {folder}: there is no such folder, and only synera record looks names up on the Hugging Face hub; "
            f"download it with: hf download {folder} --local-dir FOLDER, and give that folder"
        )
    raise CheckpointError(f"no model at {folder}: there is no such folder (with config.json in it); give {WANTED}")


def read_small(path: Path) -> bytes:
    """Read a file that states something of a model.

    Raises:
        CheckpointError: it cannot be read, or is too large for what it should be.
    """
    try:
        if (size := path.stat().st_size) > _LARGEST_JSON:
            raise CheckpointError(f"{path} has {size} bytes; what states a model has at most {_LARGEST_JSON}")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
