"""The wire contract: synera.proto, the code generated from it, message sizes, addresses.

What does not live here: who sends (runtime/client.py) and who answers (cloud/).
"""

ERROR_KIND_KEY = "synera-error-kind"
"""Trailing metadata key under which the cloud names the class of an error (one of runtime/errors.py)."""
RETRY_AFTER_KEY = "synera-retry-after-ms"
"""Trailing metadata key under which a busy cloud says when to try again, whole milliseconds as decimal digits."""
TOKEN_KEY = "authorization"
"""Metadata key of a device's token, as `Bearer TOKEN`."""
