"""Link traces: the trace, the transfer formula, generators, files."""
