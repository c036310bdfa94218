"""Thin entry points: parse, call, print, say what comes next. Each is a sub-command of `synera` (__main__.py)."""
