"""What the file of a policy takes and gives beside the observation, and the controller that runs it.

What does not live here: how it is run (onnx_policy.py, choices.py), and what else a bundle states (bundle.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from agents.choices import OnnxChooser, OnnxMaskedChooser, Stated, read_choices
from agents.errors import BundleError
from agents.onnx_policy import MOST_STATES, WIDEST_STATE, OnnxController
from synera_env import Schema, SettingError


@dataclass(frozen=True)
class Network:
    """What the ONNX file of a policy takes and gives, beside the observation."""

    state: Annotated[tuple[Annotated[int, Field(ge=1, le=WIDEST_STATE)], ...], Field(max_length=MOST_STATES)] = ()
    """Entries of each tensor that it carries from one decision to the next; none is not recurrent."""
    choices: Annotated[tuple[Stated, ...], Field(min_length=1, max_length=65_536)] | None = None
    """The settings whose scores it gives, knob by knob; None: it gives the action itself."""
    masked: bool = False
    """Whether it must be told which choices cannot be done."""

    def __post_init__(self) -> None:
        if self.masked and self.choices is None:
            raise SettingError("masked=True needs choices: an action of knobs has nothing to mask")


Running = OnnxController | OnnxChooser


def running(policy: bytes, network: Network, schema: Schema, name: str) -> Running:
    """Make a bundle's ONNX file act.

    Args:
        policy: the file.
        network: what it takes and gives.
        schema: what it sees and sets.
        name: what messages call it.

    Raises:
        BundleError: it is no policy of this kind, or its choices are none of the schema.
    """
    entries, state = len(schema.low), network.state
    if network.choices is None:
        return OnnxController(policy, entries, len(schema.rows), name, state)
    try:
        choices = read_choices(network.choices, schema)
    except SettingError as error:
        raise BundleError(f"bundle {name!r} states what cannot be chosen: {error}; export it again") from None
    return (OnnxMaskedChooser if network.masked else OnnxChooser)(policy, entries, choices, schema, name, state)
