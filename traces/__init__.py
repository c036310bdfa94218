"""Recorded evidence and its formats: token graphs, links, profiles; the bundled tasks and pair; the recorders."""
