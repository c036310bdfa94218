"""Link traces: the trace, generators, files."""
