"""Synera's environment: what its action, observation and episode are. The tables in its docstring are made of the rows.

What does not live here: its worlds (replay.py, live.py), its rows (schema.py).
"""

from __future__ import annotations

import inspect
from abc import ABC

from runtime.synera.chunk import ChunkRecord
from synera_env.base import DecisionEnv
from synera_env.synera.schema import synera_schema


class SyneraEnv(DecisionEnv, ABC):
    """Offloading decisions of device-cloud LLM inference, one chunk of draft tokens a step.

    ## Description

    A phone's small model (SLM) answers a prompt chunk by chunk. At every step a chunk of draft tokens is in hand, and
    the action decides whether it is kept or sent to the cloud's large model (LLM), which keeps the longest correct
    prefix and adds one token of its own; and how the next chunk is drafted. The loop itself is
    `runtime.synera.session.Session` in every world.

    ## Action space

    `Box(-1, 1)`, float32, one entry a knob, values outside are clipped. Thresholds and budget apply to the chunk in hand, exit and
    draft length to the next one. A chunk is offloaded when it is uncertain and important and the budget allows it.
    The whole numbers of a knob share the range in equal parts. For an SLM with two exits:

    KNOB_TABLE

    ## Observation space

    `Box(float32)`, clipped to these bounds; nothing that a device cannot know is in it.

    FEATURE_TABLE

    ## Reward

    `w_quality * d_quality - w_latency * seconds - w_cost * cloud_seconds - w_energy * joules - w_traffic * megabytes`;
    quality is the task's score and is paid at the last step. Each term is in `info["reward_terms"]`. The weights
    (`synera_env.reward.Preference`) are sampled for each episode unless given, and observed.

    ## Episode

    Starts with the first chunk drafted (full depth, four tokens). Terminates when the answer is complete. In replay it
    is truncated, with `info["uncovered"]`, when a step leaves the recorded graph. At the end `info["episode_metrics"]`
    has the metrics of `synera_env.metrics`.

    ## Reset options

    `prompt` (index), `link` (index), `link_offset_seconds`, `preference` (a `Preference`); what is not given is drawn.

    ## Arguments

    Of `SyneraReplay-v0`: `graphs`, `links`, `device`, `cloud`, `preference`, `render_mode`; all have bundled defaults.
    Of `SyneraLive-v0`: `cloud` (`host:port`), `device`, `prompts`, `scorer`, `links`, `emulate_link`, `preference`,
    `render_mode`. See the classes.

    ## Versions

    v0: first.
    """

    def _line(self, record: ChunkRecord) -> str:
        return (
            f"{'offload' if record.offloaded else 'keep   '} confidence {record.draft.confidence:.3f} "
            f"draft {list(record.draft.ids)} -> {list(record.committed)} at {record.committed_at:.3f} s"
        )


def _with_tables(docstring: str) -> str:
    schema = synera_schema(exits=2)
    tables = {"KNOB_TABLE": schema.knob_table(), "FEATURE_TABLE": schema.feature_table()}
    for mark, table in tables.items():
        docstring = docstring.replace(mark, table)
    return docstring


if SyneraEnv.__doc__ is not None:  # python -OO drops it
    SyneraEnv.__doc__ = _with_tables(inspect.cleandoc(SyneraEnv.__doc__))
