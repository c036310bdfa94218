"""The one error of recorded evidence."""

from runtime.errors import SyneraError


class TraceError(SyneraError, ValueError):
    """A trace, profile or graph file that is missing, damaged, or of another format or model, or a place that none can be
    written to; says which and the way out.
    """
