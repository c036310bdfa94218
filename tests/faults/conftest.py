"""A small device, its own answer, and a watch over what may not happen besides."""

from tests.support.surviving import alone, device, nothing_else_happens  # noqa: F401 - fixtures
