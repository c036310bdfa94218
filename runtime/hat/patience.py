"""How long a HAT device tries to reach its cloud: the same rules live and in replay.

What does not live here: who follows them (middle.py, synera_env/hat/middle.py).
"""

LONGEST_SECONDS = 30.0
"""An upload is given so long, healing included; the cloud then counts as lost."""
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.2, 3.2
"""When what met an outage of the link is tried again: the least timeout of today's TCP, doubled each time (RFC 6298 (5.5))."""


def outage_retry_seconds(tries: int) -> float:
    """Return how long to wait before a message is tried again that met an outage for the n-th time, from 1."""
    return min(FIRST_RETRY_SECONDS * 2.0 ** (tries - 1), LONGEST_RETRY_SECONDS)
