"""A served fake LLM, and an address where nothing listens."""

from tests.support.verifying import absent, world  # noqa: F401 - fixtures
