"""Graphs that grow, as commands offer them: which ones do, and with which models.

What does not live here: the growing (traces/synera/growing.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runtime.errors import SettingError
from runtime.settings import one_of
from scripts._cli import console, say
from traces import bundled
from traces.synera.graph import GraphMeta, GraphSet
from traces.synera.growing import GrowingGraphs
from traces.tasks.scoring import scorer_of

if TYPE_CHECKING:
    from traces.synera.growing_runs import PairRuns

Grow = Literal["auto", "yes", "no"]
_ENOUGH_INSIDE = 0.95
"""Share of the tokens of random answers, inside the graphs, from which on training goes over what was recorded: it is several
times as fast, and a decision that leaves the graphs is not taken there, which biases nothing (`synera_env.SyneraEnv`)."""


def model_folder(name: str, named: Path | None, meta: GraphMeta) -> Path | None:
    """Where the `slm` or `llm` of graphs is: as the user says, as the graphs say, or as it is bundled; None where nobody says."""
    if said := named or meta.notes.get(name):
        return Path(str(said))
    from runtime.model.loading import fingerprint

    bundled_one = bundled.PAIR / name
    return bundled_one if fingerprint(bundled_one) == getattr(meta, f"{name}_fingerprint") else None


def required_folder(name: str, named: Path | None, graphs: GraphSet | GrowingGraphs) -> Path:
    """Return where it is.

    Raises:
        SettingError: nobody says.
    """
    if (folder := model_folder(name, named, graphs.meta)) is None:
        raise SettingError(
            f"{graphs.path or 'the graph set'} does not say where the {name.upper()} is that it was recorded with, and it is "
            f"not the bundled one; name its folder with --{name}"
        )
    return folder


class Grower:
    """Lets sets of graphs grow where that is wanted; their models are loaded once, for the first of them."""

    def __init__(self, grow: Grow, slm: Path | None = None, llm: Path | None = None, score: str | None = None) -> None:
        """See the class.

        Args:
            grow: `auto` where graphs are open and their models are at hand, those to train on only where they hold little of
                what is done by chance; `yes` always, `no` never.
            slm: folder of the SLM; None is the one that the graphs name, or the bundled one where it recorded them.
            llm: of the LLM, likewise.
            score: the user's own function that answers were scored by, as MODULE:FUNCTION; see `traces.tasks.scoring`.

        Raises:
            SettingError: `grow` is another word.
        """
        one_of("grow", grow, ("auto", "yes", "no"))
        self._grow, self._named, self._score = grow, {"slm": slm, "llm": llm}, score
        self._runs: PairRuns | None = None

    def __call__(self, graphs: GraphSet, learned_on: bool = False, grown: Path | None = None) -> GraphSet | GrowingGraphs:
        """Return the graphs, as they are or growing.

        Args:
            graphs: as they were recorded.
            learned_on: whether a controller is trained on them; else answers to them are judged.
            grown: file of what they had grown to before, if it is there: where they grow, they go on from there.

        Raises:
            SettingError: they are to grow, and nobody names their models, or `grown` is of other prompts.
            SyneraError: the models cannot be loaded, or are others than those that the graphs were recorded with.
        """
        if self._grow == "no" or (self._grow == "auto" and not self._would(graphs.meta, learned_on)):
            return graphs
        if self._runs is None:
            self._runs = self._loaded(graphs)
        seed = graphs if grown is None or not grown.is_file() else GraphSet.load(grown)
        if seed.meta.prompts != graphs.meta.prompts:
            raise SettingError(
                f"{grown} has grown from other prompts than those of {graphs.path}; name the same graphs as before"
            )
        return GrowingGraphs(seed, self._runs, scorer_of(graphs.meta, self._score))

    def _would(self, meta: GraphMeta, learned_on: bool) -> bool:
        """Whether `auto` lets graphs grow."""
        if meta.coverage.get("closed") == 1.0:
            return False
        if learned_on and meta.coverage.get("random_steps", 0.0) >= _ENOUGH_INSIDE:
            return False
        folders = [model_folder(name, named, meta) for name, named in self._named.items()]
        missing = [str(folder) for folder in folders if folder is not None and not folder.is_dir()]
        if missing:
            console.print(
                f"note: the {meta.split} graphs are open, and the models that they name are not there "
                f"({', '.join(missing)}), so answers end where they leave them; name the folders with --slm and --llm"
            )
        return not missing and None not in folders

    def _loaded(self, graphs: GraphSet) -> PairRuns:
        from runtime.model.placement import Placement
        from traces.synera.growing_runs import PairRuns
        from traces.synera.record_models import Models

        meta = graphs.meta
        folders = {name: required_folder(name, named, graphs) for name, named in self._named.items()}
        device = "auto" if str(meta.notes.get("device")).startswith("cuda") else "cpu"
        placement = Placement.of(device, str(meta.notes.get("dtype") or "float32"))
        models = Models.load(folders["slm"], folders["llm"], placement)
        console.print(f"open graphs grow, with both models in {models.placement}")
        return PairRuns(models)


def save_grown(graphs: Mapping[str, object], folder: Path) -> None:
    """Write those graphs that grow, each as NAME.safetensors."""
    for name, each in graphs.items():
        if isinstance(each, GrowingGraphs):
            each.save(folder / f"{name}.safetensors")


def say_grown(graphs: Mapping[str, object]) -> None:
    """Print what graphs that grow have grown by."""
    growing = {name: each.growth for name, each in graphs.items() if isinstance(each, GrowingGraphs)}
    if growing:
        *_, last = growing.values()
        added = ", ".join(f"{name} by {growth.nodes_run} nodes" for name, growth in growing.items())
        say(
            "grown",
            f"{added}; {last.waves} waves of {last.mean_wave:.1f} nodes, {last.prefix_tokens} tokens run for their caches alone, "
            f"{last.model_seconds:.0f} s in the models",
        )
