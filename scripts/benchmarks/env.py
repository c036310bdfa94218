"""The environments: nothing is measured yet."""

from __future__ import annotations

from scripts.benchmarks.harness import Figure, Setting


def measure(setting: Setting) -> list[Figure]:
    """Measure every figure of the area."""
    return []
