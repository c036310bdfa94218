"""Engines: what runs the LLM, behind one asynchronous seam (base.py), found by name (registry.py)."""
