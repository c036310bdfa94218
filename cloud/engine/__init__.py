"""Engines: what runs the LLM's forwards, behind one small interface (base.py)."""
