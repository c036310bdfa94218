"""What a device and its cloud agree on when they meet, and what of a cloud does not fit.

What does not live here: what is loaded (device.py), the asking (synera/remote.py, synera/replicas.py).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from runtime.answers import ModelInfo
from runtime.errors import CloudError, LimitsChangedError, ModelChangedError, TokenizerMismatchError
from runtime.session import Limits
from runtime.settings import shown
from runtime.synera.knobs import MAX_DRAFT_LENGTH
from runtime.synera.remote import Terms

if TYPE_CHECKING:
    from runtime.device import Device


class Agreement:
    """Of one device and its cloud. Thread-safe."""

    def __init__(self, device: Device, expected: str | None, *, several: bool) -> None:
        """Begin with the SLM's own limits.

        Args:
            device: what is loaded here.
            expected: fingerprint of the model that a cloud that comes later must serve; None takes any that fits.
            several: it has replicas, which must be alike.
        """
        self._device, self._expected, self._several = device, expected, several
        self._lock = threading.Lock()
        self.limits = Limits(device.max_new_tokens, device.eos_ids, device.slm.config.context)
        """Those of sessions that are opened now."""
        self.terms: Terms | None = None
        """None as long as there was no cloud."""

    def agree(self, target: str, info: ModelInfo) -> Terms:
        """Agree with the cloud at an address.

        Raises:
            TokenizerMismatchError: it reads other tokens than the device.
            CloudError: it takes no drafts as long as the device makes them.
        """
        limits, terms = self._wanted(target, info)
        with self._lock:
            self.limits, self.terms = limits, terms
            return terms

    def meet(self, begun: Limits, target: str, info: ModelInfo) -> Terms:
        """Agree with a cloud that was not there at first, for a session that was opened within these limits.

        Raises:
            ModelChangedError: it serves another model than is expected.
            LimitsChangedError: it ends answers elsewhere than that session began with.
            CloudError, TokenizerMismatchError: as of `agree`.
        """
        if self._several:
            terms = self.join(target, info)
        else:
            self._check_expected(info)
            terms = self.agree(target, info)
        if self.limits != begun:
            raise LimitsChangedError("the cloud came later than this answer began, and its model ends answers elsewhere")
        return terms

    def join(self, target: str, info: ModelInfo) -> Terms:
        """Agree with one of several replicas: the first decides what the others must serve.

        Raises:
            ModelChangedError: it serves another model than the others or than is expected, or ends answers elsewhere.
            CloudError, TokenizerMismatchError: as of `agree`.
        """
        limits, terms = self._wanted(target, info)
        with self._lock:
            if self.terms is None:
                self._check_expected(info)
                self.limits, self.terms = limits, terms
            elif terms != self.terms:
                raise ModelChangedError(
                    f"{target} serves the model {shown(terms.llm_fingerprint)}, the other replicas "
                    f"{shown(self.terms.llm_fingerprint)}; have all of them serve the same"
                )
            elif limits != self.limits:
                raise ModelChangedError(
                    f"{target} ends answers elsewhere than the other replicas (context {limits.context} and {self.limits.context}, "
                    "or other end tokens); have all of them serve the same"
                )
            return terms

    def _check_expected(self, info: ModelInfo) -> None:
        if self._expected not in (None, info.fingerprint):
            raise ModelChangedError(
                f"the verifier serves the model {shown(info.fingerprint)}, {shown(self._expected)} is expected"
            )

    def _wanted(self, target: str, info: ModelInfo) -> tuple[Limits, Terms]:
        device, config = self._device, self._device.slm.config
        if info.tokenizer_hash != device.tokenizer_hash:
            raise TokenizerMismatchError(
                f"the cloud {target} reads tokens of tokenizer {info.tokenizer_hash}, the device of {device.tokenizer_hash}; "
                "serve an LLM that shares the SLM's tokenizer"
            )
        if info.max_draft_tokens < MAX_DRAFT_LENGTH:
            raise CloudError(
                f"the cloud {target} checks drafts of at most {info.max_draft_tokens} tokens, the device drafts up to {MAX_DRAFT_LENGTH}; "
                f"have it configured for {MAX_DRAFT_LENGTH} (max_draft_tokens)"
            )
        eos_ids, context = frozenset(info.eos_ids) | device.eos_ids, min(info.context_tokens, config.context)
        terms = Terms(device.tokenizer_hash, info.fingerprint, min(info.vocab, config.vocab))
        return Limits(device.max_new_tokens, eos_ids, context), terms
