"""What `scripts/bench.py` measures, an area a module; each has `measure(setting) -> list[Figure]`."""
