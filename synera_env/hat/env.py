"""HAT's environment: what its action, observation and episode are. The tables in its docstring are made of the rows.

What does not live here: its worlds (replay.py, live.py), its rows (schema.py).
"""

from __future__ import annotations

import inspect
from abc import ABC
from collections.abc import Mapping, Sequence

from runtime.hat.values import HatRecord
from runtime.session import Cost
from synera_env.arguments import Links
from synera_env.base import DecisionEnv
from synera_env.hat.charge import charging, check_first_token_weight
from synera_env.hat.schema import hat_schema
from synera_env.radio import Outages
from synera_env.reward import Preference


class HatEnv(DecisionEnv, ABC):
    """Uploads of a model that is split between a device and its cloud (HAT, arXiv 2503.18989), one upload a step.

    ## Description

    The device holds the first layers and the head of a large model, the cloud the layers between. Prompts and answers never leave the device as
    tokens; their hidden states do. First the prompt goes up chunk by chunk, while the cloud works on the chunks before. Then the
    device drafts tokens with its own layers and a small adapter, uploads their states, and takes what the whole model says: the
    longest prefix of the draft that it agrees with, and one token of its own. While a draft is away the device may draft on from
    several candidates of its last token. The loop itself is `runtime.hat.session.Session` in every world.

    ## Action space

    `Box(-1, 1)`, float32, one entry a knob, values outside are clipped:

    KNOB_TABLE

    ## Observation space

    `Box(float32)`, clipped to these bounds; nothing that a device cannot know is in it.

    FEATURE_TABLE

    ## Reward

    As of every environment here, but that a second before the first token counts `first_token_weight` times: so the times to the first
    token and between tokens are weighted apart. Quality is the score of the model's own answer, whatever is decided, but for what the
    precision of the states changes in it.

    ## Episode

    Starts before anything was sent. Terminates when the answer is complete, or when the cloud was lost for 30 s: an answer that is not
    complete is worth nothing, and the last record says why. Never truncated: graphs of this system are always closed.

    ## Network and cloud

    As of `SyneraReplay-v0`: a link trace from some time on, outages, and a cloud that others use. What meets an outage is tried again
    as TCP does (`runtime.hat.patience`). How long an upload waits in the cloud is drawn from its profile, or is what a workload's
    requests leave it.

    ## Arguments

    Of `HatReplay-v0`: `graphs`, `links`, `device`, `cloud`, `preference`, `outages`, `render_mode`, `cloud_load`, `first_token_weight`;
    all have bundled defaults. Of `HatLive-v0`: `cloud` (`host:port`), `device`, `prompts`, `scorer`, `links`, `emulate_link`,
    `preference`, `outages`, `render_mode`, `first_token_weight`.

    ## Versions

    v0: the only one so far.
    """

    def __init__(
        self,
        prompts: int,
        links: Links,
        preference: Preference | Mapping[str, float] | None = None,
        outages: Outages | Mapping[str, float] | None = None,
        render_mode: str | None = None,
        startable: Sequence[int] | None = None,
        first_token_weight: float = 1.0,
    ) -> None:
        """See :class:`synera_env.base.DecisionEnv`.

        Args:
            prompts: how many.
            links: to draw from.
            preference: fixed weights; None samples them.
            outages: of the radio.
            render_mode: None, `ansi` or `rgb_array`.
            startable: prompts that can be begun; None is all.
            first_token_weight: 0..1000, how many times a second before the first token counts.

        Raises:
            SettingError: see there, or the weight is out of its range.
        """
        check_first_token_weight(first_token_weight)
        self.first_token_weight, self._charged = first_token_weight, charging(first_token_weight)
        super().__init__(hat_schema(), prompts, links, preference, outages, render_mode, startable)

    def charged(self, record: HatRecord) -> Cost:  # type: ignore[override]  # it is always this system's own
        """See :class:`synera_env.base.DecisionEnv`."""
        return self._charged(record)

    def _line(self, record: HatRecord) -> str:
        what = f"prompt {record.prompt_rows} tokens" if record.prompt_rows else f"draft {self._said(record.drafted)}"
        said = f"lost: {record.error}" if record.error else f"-> {self._said(record.committed)}"
        return f"{what} {said} at {record.committed_at:.3f} s"

    def _confidence(self, record: HatRecord) -> float:
        return record.confidence


def _with_tables(docstring: str) -> str:
    schema = hat_schema()
    tables = {"KNOB_TABLE": schema.knob_table(), "FEATURE_TABLE": schema.feature_table()}
    for mark, table in tables.items():
        docstring = docstring.replace(mark, table)
    return docstring


if HatEnv.__doc__ is not None:  # python -OO drops it
    HatEnv.__doc__ = _with_tables(inspect.cleandoc(HatEnv.__doc__))
