"""Token graphs: format, coverage, recorder."""
