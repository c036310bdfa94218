"""Thin entry points: parse, call, print, say what comes next."""
