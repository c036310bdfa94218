"""Synera's environment: what its action, observation and episode are. What does not live here: its worlds, its rows."""

from __future__ import annotations

from abc import ABC

from runtime.synera.chunk import ChunkRecord
from synera_env.base import DecisionEnv


class SyneraEnv(DecisionEnv, ABC):
    """Offloading decisions of device-cloud LLM inference, one chunk of draft tokens a step.

    ## Description

    A phone's small model (SLM) answers a prompt chunk by chunk. At every step a chunk of draft tokens is in hand, and
    the action decides whether it is kept or sent to the cloud's large model (LLM), which keeps the longest correct
    prefix and adds one token of its own; and how the next chunk is drafted. The loop itself is
    `runtime.synera.session.Session` in every world.

    ## Action space

    `Box(-1, 1, (6,), float32)`, values outside are clipped. Thresholds and budget apply to the chunk in hand, exit and
    draft length to the next one. A chunk is offloaded when it is uncertain and important and the budget allows it.
    The whole numbers of a knob share the range in equal parts. For an SLM with two exits:

    | # | knob | values | unit | meaning |
    |---|---|---|---|---|
    | 0 | `confidence_threshold` | 0..1 | probability | uncertain: the least confident token is below it; 1: always |
    | 1 | `importance_threshold` | 0..1 | quantile | important: the chunk's importance is at least this |
    | 2 | `exit_index` | 0..1, whole | exit | deepest exit run for a draft token of the next chunk |
    | 3 | `exit_margin` | 0..1 | probability | leave at the first exit whose top-1 minus top-2 probability reaches it; 1: never early |
    | 4 | `draft_length` | 1..8, whole | tokens | most tokens in the next chunk |
    | 5 | `offload_budget` | 0..1 | share | chunk t may be offloaded while offloaded + 1 <= ceil(budget * t) |

    ## Observation space

    `Box(float32)`, clipped to these bounds; nothing that a device cannot know is in it.

    | # | feature | low | high | unit | meaning |
    |---|---|---|---|---|---|
    | 0 | `draft_tokens` | 0 | 1 | tokens / 8 | length of the draft in hand |
    | 1-8 | `confidence` | 0 | 1 | probability | top-1 of each draft token; 1 past the end |
    | 9-16 | `margin` | 0 | 1 | probability | top-1 minus top-2 of each draft token; 1 past the end |
    | 17-24 | `entropy` | 0 | 16 | nats | of each draft token; 0 past the end |
    | 25 | `least_confidence` | 0 | 1 | probability | lowest confidence of the draft |
    | 26 | `importance` | 0 | 1 | quantile | importance of the chunk |
    | 27 | `mean_exit` | 0 | 1 | exit / last exit | mean exit of the draft's tokens |
    | 28-43 | `sketch` | -8 | 8 | deviations | last draft token's hidden state on the principal directions |
    | 44-46 | `past_confidence` | 0 | 1 | probability | lowest confidence of each of the last chunks, the last first; 1 before the first |
    | 47-49 | `past_importance` | 0 | 1 | quantile | their importance; 0 before the first |
    | 50-52 | `past_offloaded` | 0 | 1 | 0 or 1 | 1 where it was offloaded |
    | 53-55 | `past_accepted` | 0 | 1 | share | accepted part of its draft; 1 where there was no verdict |
    | 56 | `acceptance` | 0 | 1 | share | moving average of the accepted part of offloaded chunks; 0.5 before the first |
    | 57 | `offload_rate` | 0 | 1 | share | offloaded chunks of those so far |
    | 58 | `chunks` | 0 | 64 | chunks / 16 | settled chunks |
    | 59 | `progress` | 0 | 1 | share | generated tokens of the most that may be |
    | 60 | `prompt_tokens` | 0 | 4096 | tokens / 128 | length of the prompt |
    | 61 | `rtt` | -3 | 2 | log10 s | estimated round trip; -1 until one is known |
    | 62 | `rtt_known` | 0 | 1 | 0 or 1 | 1 once a round trip was measured |
    | 63 | `throughput` | 0 | 12 | log10 bit/s | request and response over network seconds, moving average; 3 before the first |
    | 64 | `queue` | -3 | 2 | log10 s | last queue time; -3 before |
    | 65 | `compute` | -3 | 2 | log10 s | last compute time; -3 before |
    | 66 | `load` | 0 | 128 | requests / 8 | waiting or running at the cloud, last hint |
    | 67 | `cloud_lost` | 0 | 1 | 0 or 1 | 1 if the last offloaded chunk got no verdict |
    | 68 | `weight_quality` | -6 | 6 | log10 | preference weight of quality; -6 for 0 |
    | 69 | `weight_latency` | -6 | 6 | log10 | preference weight of latency; -6 for 0 |
    | 70 | `weight_cost` | -6 | 6 | log10 | preference weight of cost; -6 for 0 |
    | 71 | `weight_energy` | -6 | 6 | log10 | preference weight of energy; -6 for 0 |
    | 72 | `weight_traffic` | -6 | 6 | log10 | preference weight of traffic; -6 for 0 |

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
