"""What can be wrong with a controller that was trained elsewhere; its own error, as it is read by users."""

from __future__ import annotations

from synera_env import SyneraError


class BundleError(SyneraError, ValueError):
    """A bundle that is missing, damaged, made for something else, or whose policy gives no usable action."""
