"""Real public data that the repository does not ship: where it is, or the reason why a test is skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


def public_data(path: str) -> Path:
    """Return a file or folder of the public data's developer part, such as `workload/azure2023`.

    It is looked for where SYNERA_DATA says, else in `../shared/data` beside the checkout. Skips the test where it is not there.
    """
    folder = Path(os.environ.get("SYNERA_DATA") or _ROOT.parent / "shared" / "data")
    found = folder / "dev" / path
    if not found.exists():
        pytest.skip(f"no public data at {found}; name its folder with SYNERA_DATA")
    return found
