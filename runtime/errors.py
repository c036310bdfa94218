"""Every error the runtime raises on purpose, one class a cause. The gRPC status of those that a verifier raises is decided in
wire/statuses.py; nowhere else.
"""

from __future__ import annotations


class SyneraError(Exception):
    """Base of all deliberate errors; its message is written for a user."""


class SettingError(SyneraError, ValueError):
    """A setting, argument or option that a user gave and that is not allowed; a ValueError for who calls from Python."""


class CheckpointError(SyneraError):
    """A model folder that is missing, incomplete or not what its config says."""


class UnsupportedModelError(CheckpointError):
    """A model architecture (or a feature of it) that the decoder does not run."""


class PlacementError(SyneraError):
    """A device that was asked for and is not there."""


class PlaintextRefusedError(SyneraError):
    """Token ids would cross a network unencrypted, and nobody said that this is wanted."""


class TokenizerMismatchError(SyneraError):
    """Device and cloud, or model and trace, do not share a tokenizer."""


class ContextOverflowError(SyneraError):
    """A prompt or an answer that does not fit the model's context."""


class CloudError(SyneraError):
    """The cloud verifier could not serve a request; the device can go on alone."""


class CloudUnavailableError(CloudError):
    """No verifier answers: absent, dead, unreachable, or past its deadline."""


class LateError(CloudUnavailableError):
    """No answer came within the time that it was given."""


class LinkDownError(LateError):
    """The emulated link carried none within that time; of the cloud itself that says nothing."""


class GivenUpError(CloudUnavailableError):
    """The device itself no longer waits for the answer; of the cloud that says nothing."""


class SessionLostError(CloudError):
    """The verifier no longer holds this session; the device re-sends its history to heal it."""


class CloudBusyError(CloudError):
    """The verifier refuses more work or more sessions for now."""

    def __init__(self, message: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        """When it may be worth another try; None where the verifier did not say."""


class UnauthenticatedError(CloudError):
    """The verifier does not know who asks: no token or certificate, or one that it does not take."""


class BadAnswerError(CloudError):
    """The verifier's answer makes no sense, such as a token outside the vocabulary; nothing of it is believed."""


class ModelChangedError(CloudError):
    """The verifier serves another model or tokenizer than the session began with."""


class LimitsChangedError(CloudError):
    """The verifier's model ends answers elsewhere than was assumed when this one began, before it could be asked."""


class CloudRejectedError(CloudError):
    """The verifier refused the request as wrong; retrying it unchanged cannot help."""


class UncoveredError(SyneraError):
    """A replayed step leaves the recorded graph; nothing is invented, the episode ends."""
