"""The cloud-only baseline of HAT's bench: the prompt's token ids go up, the whole model's tokens come back as they are decoded.

Tokens leave the device, which HAT is there to avoid; nothing of the model is on it. What does not live here: the stream
(`Generate` of runtime/client.py), the devices side by side and what is said of them (hat.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runtime.client import CloudClient
from runtime.link import Link, LinkEmulator
from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import on_the_link
from traces.profile import CloudProfile

MIDDLE_LAYERS = 30
"""That the bundled profile `middle` is of: Vicuna-7B's 32 less the two of the device."""


@dataclass(frozen=True)
class Streamed:
    """One answer; times from the request on."""

    prompt: int
    tokens: tuple[int, ...]
    ttft: float
    """Seconds to the first token."""
    tbt: float
    """Mean seconds between tokens."""


def whole_cloud(middle: CloudProfile, device_layers: int) -> CloudProfile:
    """Return the profile of a cloud that runs the whole model.

    A forward costs all layers, the device's too: the middle's times by layers. The head, about two thirds of a layer more, is left out,
    in favour of this baseline.

    Args:
        middle: of :data:`MIDDLE_LAYERS` layers.
        device_layers: that HAT's device runs.
    """
    share = (MIDDLE_LAYERS + device_layers) / MIDDLE_LAYERS
    times = {name: share * getattr(middle, name) for name in ("forward_ms", "token_ms")}
    return replace(middle, name=f"{middle.name} and the device's {device_layers} layers", **times)


def streamed(client: CloudClient, link: Link, number: int, prompt: Sequence[int], max_new_tokens: int) -> Streamed:
    """Have a prompt answered over an emulated link, without outages; returns when the last token is here.

    Each token is a message of its own, and waits for the one before it. No session is opened, so there is no round trip before the
    first message.

    Raises:
        CloudError: the stream broke.
    """
    emulator, began = LinkEmulator(link, now=time.monotonic), time.monotonic()
    request = pb.GenerateRequest(prompt=prompt, max_new_tokens=max_new_tokens)
    time.sleep(emulator.uplink(on_the_link(request.ByteSize())) or 0.0)
    tokens, came = list[int](), list[float]()
    for each in client.generate(prompt, max_new_tokens):
        answer = pb.GenerateResponse(token=each.token, queue_ms=1e3 * each.queue_seconds, compute_ms=1e3 * each.compute_seconds)
        arrives = time.monotonic() + emulator.downlink(on_the_link(answer.ByteSize()))
        came.append(max(arrives, came[-1] if came else 0.0))
        tokens.append(each.token)
    time.sleep(max(0.0, came[-1] - time.monotonic()))
    return Streamed(number, tuple(tokens), came[0] - began, (came[-1] - came[0]) / max(1, len(came) - 1))
