"""HAT as a decision problem: rows, worlds, environments."""
