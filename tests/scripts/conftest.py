"""What commands that run in this process leave behind is put back."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """`synera serve` sets up the logging of its process, with the standard error of that time."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """A Ray of this machine; whoever asks for one takes it."""
    from scripts._scale import LOCAL, connected

    with connected(LOCAL):
        yield
