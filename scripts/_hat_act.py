"""HAT in the demo: the bundled model cut in two, live devices beside their replay, the U shape beside the paper's control.

What does not live here: the rest of the demo (demo.py), and HAT's bench (benchmarks/hat.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from rich.table import Table

from agents.base import Controller
from agents.comparison import summarise_answers
from agents.evaluation import Answered, make_plan
from agents.registry import controller
from agents.worlds import BothWorlds, Replayed
from scripts._verifier import verifier_process
from synera_env import Outages, Preference
from synera_env.hat.replay import HatReplayEnv
from traces import bundled
from traces.hat.graph import HatGraphs
from traces.links.generators import constant_link
from traces.links.trace import LinkTrace
from traces.profile import DeviceProfile

RULES = ("u-shape", "drafts", "hat-rule")
_ANSWERS, _DEVICES = 12, 4
LIVE_ANSWERS = len(RULES) * _ANSWERS
"""Of all rules."""


def wifi(slower: float = 1.0) -> LinkTrace:
    """The Wi-Fi of HAT's testbed, 8.8 and 12.5 MB/s, slower by as much as the bundled model's states are smaller: 384 bytes, not 8192.

    Args:
        slower: how many times everything on it takes longer.
    """
    return constant_link(rtt_ms=8.4 * slower, uplink_mbps=3.3 / slower, downlink_mbps=4.7 / slower)


def hat_act(answered: Callable[[], None] = lambda: None) -> BothWorlds:
    """Answer some test prompts with each rule, in replay and live.

    Args:
        answered: called after each live answer.

    Raises:
        SyneraError: a bundled file is damaged, or the server ended.
    """
    from runtime.client import CloudClient
    from synera_env.hat.live import HatLiveEnv, load_hat_device

    graphs, links = HatGraphs.load(bundled.hat_graphs("test")), [wifi()]
    profile = DeviceProfile.load(bundled.profile("edge"))
    env = HatReplayEnv(graphs, links, profile, bundled.profile("middle"), Preference(), Outages.never())
    makers: dict[str, Callable[[], Controller]] = {name: partial(controller, name, env.schema) for name in RULES}
    replayed = Replayed.of(env, make_plan(env, _ANSWERS), makers)
    split = f"{graphs.meta.first_layers}:{graphs.meta.last_layers}"
    model, pace = bundled.PAIR / "llm", bundled.profile("middle")
    with (
        verifier_process(model=model, pace=pace, options=("--split", split)) as server,
        CloudClient(server.target) as client,
    ):
        device = load_hat_device(profile=profile)
        return replayed.live(lambda: HatLiveEnv(client, device, links=links, outages=Outages.never()), _DEVICES, answered)


def hat_table(both: BothWorlds) -> Table:
    """What came of it, replay / live."""
    table = Table(title="HAT: the same prompts through a split model, replay / live", title_justify="left")
    for heading in ("control", "TTFT, ms", "TBT, ms", "tokens an upload", "kB up", "quality", "same tokens"):
        table.add_column(heading, justify="left" if heading == "control" else "right")
    for name in both.live:
        worlds = both.worlds(name)
        found = {world: summarise_answers(answers) for world, answers in worlds.items()}

        def pair(of: Callable[[dict[str, float]], float], digits: int, found: dict[str, dict[str, float]] = found) -> str:
            return " / ".join(f"{of(each):.{digits}f}" for each in found.values())

        brought = " / ".join(f"{_tokens_an_upload(answers):.2f}" for answers in worlds.values())
        table.add_row(
            name,
            pair(lambda s: 1e3 * s["ttft_seconds"], 0),
            pair(lambda s: 1e3 * s["tbt_mean_seconds"], 1),
            brought,
            pair(lambda s: s["uplink_bytes"] / 1e3, 1),
            pair(lambda s: s["quality"], 3),
            f"{both.agreements[name].tokens_identical:.0%}",
        )
    return table


def _tokens_an_upload(answers: Sequence[Answered]) -> float:
    drafts = [record for each in answers for record in each.records if not record.prompt_rows]
    return sum(len(record.committed) for record in drafts) / max(1, len(drafts))
