"""The wire contract: synera.proto, the code generated from it, message sizes, addresses.

What does not live here: who sends (runtime/client.py) and who answers (cloud/).
"""

ERROR_KIND_KEY = "synera-error-kind"
"""Trailing metadata key under which the cloud names the class of an error (one of runtime/errors.py)."""
