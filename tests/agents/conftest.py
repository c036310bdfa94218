"""The recorded pair and the controller trained on it, for the tests of who decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from synera_env.synera.replay import SyneraReplayEnv
from tests.support.recorded import Recorded, recorded, trained


@pytest.fixture(scope="session")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture
def env(pair: Recorded) -> SyneraReplayEnv:
    return pair.env()


@pytest.fixture(scope="session")
def run(tiny_llm: Path) -> Path:
    """The folder of a finished training run; not to be written to."""
    return trained(tiny_llm)


@pytest.fixture
def bundle(run: Path, tmp_path: Path) -> Path:
    """A copy of the run's bundle, to be damaged."""
    import shutil

    return Path(shutil.copytree(run / "bundle", tmp_path / "bundle"))
