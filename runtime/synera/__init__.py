"""Synera on the device: knobs, the session, the drafter, the lens, and the verifier as the device sees it."""
