"""What a controller was made with, which a device that deploys it must do alike: read off its bundle, or off graphs.

What does not live here: the device (runtime/device.py) and the deployment (deploy.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from agents.bundle import Bundle
from runtime.model.frame import Frame
from runtime.synera.lens import Lens
from traces.synera.graph import GraphSet


@dataclass(frozen=True)
class Evidence:
    """What a controller was made with; nothing is known of a rule without graphs."""

    lens: Lens | None = None
    max_new_tokens: int | None = None
    frame: Frame = Frame()
    slm_fingerprint: str | None = None
    """Of the SLM that graphs were recorded with; a bundle compares all of its fingerprints itself."""

    @classmethod
    def of(cls, bundle: Bundle | None, graphs: GraphSet | None) -> Evidence:
        """Take it from a bundle, or, for a rule, from graphs."""
        if bundle is not None:
            return cls(Lens.from_tensors(bundle.tensors), bundle.meta.max_new_tokens, bundle.meta.frame or Frame())
        if graphs is None:
            return cls()
        lens, meta = Lens.from_tensors(graphs.lens_tensors), graphs.meta
        return cls(lens, meta.max_new_tokens, Frame.of(meta.frame), meta.slm_fingerprint)
