"""Synera as a decision problem: its schema, its environments, its replayed and live worlds."""
