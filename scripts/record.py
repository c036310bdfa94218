"""Record token graphs: run both models over what a controller can cause on a set of prompts.

Examples:
    synera record                                   # train, validation and test graphs of the bundled tasks
    synera record --splits test --per-kind 50
    synera record --per-kind 250 --ray              # batches of prompts as tasks of Ray
    synera record --slm /models/small --llm /models/large --prompts prompts.jsonl --chat --out runs/own-graphs
    synera record --slm Qwen/Qwen2.5-0.5B --llm Qwen/Qwen2.5-1.5B --prompts prompts.jsonl --score final-number
    synera record --system hat                      # HAT's graphs, of the bundled LLM and its adapter
    synera record --system hat --model /models/large --adapter runs/adapter --prompts prompts.jsonl
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from runtime.errors import SettingError
from runtime.settings import one_of, within
from scripts import _record_hat
from scripts._cli import Dtype, check_output, console, launch, next_step, progress, say
from scripts._scale import RayAddress, check_ray, connected
from scripts._systems import Own, SystemName, check_options
from scripts._text import harmless
from traces import bundled
from traces.tasks import scoring
from traces.tasks.splits import Prompt, bundled_prompts, own_prompts, read_prompts

if TYPE_CHECKING:  # torch loads only after the arguments are understood
    from runtime.model.frame import Frame
    from traces.synera.graph import GraphSet
    from traces.synera.record import Expand, Recorder
    from traces.synera.record_models import Models

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_WALKS = ("random", "never", "always")
_OUT: Mapping[SystemName, Path] = {"synera": Path("runs/graphs"), "hat": Path("runs/hat-graphs")}
_OWN: Own = {"synera": ("slm", "llm", "node_budget", "lens", "ray", "device", "dtype"), "hat": ("model", "adapter")}


@dataclass(frozen=True)
class Arguments:
    """Record token graphs."""

    slm: Path = bundled.PAIR / "slm"
    """Hugging Face folder of the SLM, or its name on the hub; `exit_layers` in its config.json names its exits."""
    llm: Path = bundled.PAIR / "llm"
    """Hugging Face folder of the LLM, or its name on the hub."""
    out: Path | None = None
    """Folder; one SPLIT.safetensors each. By default runs/graphs, of HAT runs/hat-graphs."""
    system: SystemName = "synera"
    """What is recorded: token graphs of synera's two models; or, of hat, one model's own answers in each precision of the states that
    travel, with all drafts beside them."""
    model: Path = bundled.PAIR / "llm"
    """Of HAT: Hugging Face folder of the model that is split, or its name on the hub."""
    adapter: Path = bundled.ADAPTER
    """Of HAT: file or folder of its adapter, or of Medusa heads; the model is split where that was trained."""
    splits: tuple[Split, ...] = SPLITS
    """Which splits to record; the first fits the lens unless one is given."""
    per_kind: int = 40
    """Prompts of each bundled task kind, of HAT with up to four exchanges before them; a quarter of it for validation and test."""
    prompts: Path | None = None
    """A file of prompts instead of the bundled tasks: 70 % for training, 15 % each for validation and test. NAME.jsonl has a
    JSON object a line, with `prompt` and optionally `reference` and `kind`; of any other file each line is a prompt."""
    score: str = ""
    """What answers are worth: agreement-f1 or agreement (with the LLM's own answer), token-f1, exact-match, final-number or rouge-l
    (with the reference), or a function of yours as MODULE:FUNCTION, of prompt, answer and reference. By default token-f1 where
    every prompt has a reference, else agreement-f1."""
    chat: bool = False
    """Put prompts into the models' chat template, as a user's message."""
    system_message: str = ""
    """The chat's; by default the template's own, or none."""
    thinking: bool = False
    """Have a chat model that can reason before it answers do so."""
    bos: bool = True
    """Have the tokenizer put its own special tokens around a prompt, such as a beginning of text; a chat template states its own."""
    max_new_tokens: int = bundled.MAX_NEW_TOKENS
    """Where answers are cut."""
    node_budget: int | None = None
    """Most nodes run for a prompt, on the mean of those recorded together, the likeliest first. By default 500 of the bundled pair, and
    of other models what takes a few minutes in all, 16 to 256: training makes them grow."""
    lens: Path | None = None
    """A file that holds a lens to use (a graph file or a bundle's tables.safetensors); by default one is fitted. Prompts are then
    read as they were there: a chat template may write today's date."""
    threads: int = 2
    """CPU threads."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: CUDA where it is there, else the CPU."""
    dtype: Dtype = "float32"
    """Arithmetic type of both models; float32 makes what is recorded independent of the batch."""
    ray: RayAddress = None
    """Record batches of prompts as tasks of Ray, on this machine or where ADDRESS says: auto, or HOST:PORT of a cluster whose
    machines have the models' folders and this one under the same paths. On machines of one kind the graphs are the same."""

    def __post_init__(self) -> None:
        check_options(self, _OWN)
        if not self.splits:
            raise SettingError(f"splits is empty; name some of {', '.join(SPLITS)}")
        for split in self.splits:
            one_of("splits", split, SPLITS)
        if len(set(self.splits)) != len(self.splits):
            raise SettingError(f"splits={' '.join(self.splits)} names one twice")
        within("per_kind", self.per_kind, 1, 100_000)
        within("max_new_tokens", self.max_new_tokens, 1, 2**20)
        if self.node_budget is not None:
            within("node_budget", self.node_budget, 1, 10**9)
        within("threads", self.threads, 1, 1024)
        if self.score:
            scoring.check_score_name(self.score)
            if self.prompts is None:
                raise SettingError(
                    "score is of your own prompts; name them with --prompts FILE (bundled tasks have their own score)"
                )
        if (self.system_message or self.thinking) and not self.chat:
            raise SettingError("system_message and thinking are of a chat; add --chat")
        if self.chat and not self.bos:
            raise SettingError("a chat template states its own special tokens; leave out --no-bos, or --chat")

    @property
    def folder(self) -> Path:
        """Where the graphs go."""
        return self.out or _OUT[self.system]

    def counted(self, split: str) -> int:
        """Prompts of each bundled task kind in a split."""
        return self.per_kind if split == "train" else max(1, self.per_kind // 4)


@dataclass(frozen=True)
class _Task:
    """What is recorded, and how answers are scored."""

    splits: dict[str, list[Prompt]]
    score: str

    @classmethod
    def of(cls, arguments: Arguments) -> _Task:
        """Read the prompts of the splits that are asked for; nothing of a user's function but its name is looked at."""
        if arguments.prompts is None:
            return cls({name: bundled_prompts(name, arguments.counted(name)) for name in arguments.splits}, scoring.TINYWORLD)
        found, every = own_prompts(arguments.prompts), read_prompts(arguments.prompts)
        score = arguments.score or ("token-f1" if all(prompt.reference for prompt in every) else scoring.NAMES[0])
        scoring.check_references(score, every)
        return cls({name: found[name] for name in arguments.splits}, score)

    def prompts(self) -> list[Prompt]:
        """Those of all splits."""
        return [prompt for part in self.splits.values() for prompt in part]


def main(arguments: Arguments) -> None:
    """Record every split.

    Raises:
        SyneraError: a file or a model cannot be used, or the recording does not fit into this machine.
    """
    check_output(arguments.folder, folder=True)
    check_ray(arguments.ray)
    task = _Task.of(arguments)
    scoring.scorer(task.score, {}, arguments.score)  # a function that cannot be imported is found out before the work
    if arguments.system == "hat":
        _record_hat.record(arguments, task.splits, task.score)
    else:
        _record(arguments, task)


def _record(arguments: Arguments, task: _Task) -> None:
    """Record every split of Synera."""
    import torch

    from runtime.model.hub import model_folder
    from runtime.synera.lens import Lens
    from traces.synera.record import Recorder

    lens = Lens.load(arguments.lens) if arguments.lens else None
    torch.set_num_threads(1)  # batches of prompts side by side scale better than threads within one
    arguments = replace(arguments, slm=model_folder(arguments.slm), llm=model_folder(arguments.llm))
    models = _models(arguments, task)
    own = not models.is_pair(bundled.PAIR / "slm", bundled.PAIR / "llm")
    _say_what_is_recorded(arguments, task, models, own)
    budget, batch = _planned(arguments, task, models) if own else (arguments.node_budget or bundled.NODE_BUDGET, 16)
    table = Table(
        "split",
        "prompts",
        "nodes",
        "nodes a prompt",
        "closed",
        "tokens inside",
        *(f"answers inside: {w}" for w in _WALKS),
    )
    expand = _elsewhere(arguments, models, budget)
    with connected(arguments.ray) if arguments.ray else nullcontext():
        for name, prompts in task.splits.items():
            references = _references(task.score, prompts, models, arguments.max_new_tokens)
            score = scoring.scorer(task.score, references, arguments.score)
            recorder = Recorder(models, score, arguments.max_new_tokens, budget, lens, arguments.threads, expand)
            graphs = _described(record(recorder, prompts, name, batch), task.score, references, models.frame)
            if own:  # where an evaluation of them finds the models to deploy, and a training those to grow them with
                graphs.meta.notes.update(slm=str(arguments.slm), llm=str(arguments.llm))
            lens = Lens.from_tensors(graphs.lens_tensors)
            graphs.save(arguments.folder / f"{name}.safetensors")
            table.add_row(name, *_row(graphs))
    console.print(table)
    _say_what_comes_next(arguments, own)


def record(recorder: Recorder, prompts: Sequence[Prompt], split: str, batch: int = 16) -> GraphSet:
    """Record one set of prompts with a progress bar."""
    from traces.synera.graph import GraphSet

    with progress() as bar:
        task = bar.add_task(f"record {split}", total=len(prompts))
        for state in recorder.record(prompts, split, batch):
            if isinstance(state, GraphSet):
                return state
            bar.update(task, completed=state)
    raise AssertionError("the recorder ended without its graphs")


def _elsewhere(arguments: Arguments, models: Models, budget: int) -> Expand | None:
    """What runs batches on Ray; None where that is not asked for."""
    from scripts._record_there import Elsewhere

    a = arguments
    if a.ray is None:
        return None
    return Elsewhere(a.slm, a.llm, models.placement, models.frame, a.max_new_tokens, budget, a.ray)


def _models(arguments: Arguments, task: _Task) -> Models:
    """Load the pair, with the frame that its prompts are put into."""
    from runtime.model.placement import Placement
    from scripts._frames import asked_frame
    from traces.synera.record_cost import check_weights
    from traces.synera.record_models import Models

    a, placement = arguments, Placement.of(arguments.device, arguments.dtype)
    check_weights((a.slm, a.llm), placement)
    texts = [prompt.text for prompt in task.prompts()]
    frame = asked_frame(a.slm, a.llm, texts, chat=a.chat, system=a.system_message, thinking=a.thinking, bos=a.bos, lens=a.lens)
    return Models.load(a.slm, a.llm, placement, frame)


def _say_what_is_recorded(arguments: Arguments, task: _Task, models: Models, own: bool) -> None:
    console.print(f"both models in {models.placement}; prompts are read {harmless(str(models.frame))}")
    if own and arguments.prompts is None:
        console.print(
            "note: these are not the bundled models, and without --prompts they are recorded on the bundled tasks, which only "
            "the bundled pair was trained for; give prompts of your own with --prompts FILE"
        )
    if arguments.prompts is not None:
        compared = "the LLM's own" if task.score in scoring.BY_LLM else "the reference"
        console.print(f"answers are scored by {harmless(task.score)}, against {compared}")
    if not models.eos_ids:
        console.print(
            "note: neither model states a token that ends an answer (eos_token_id), so every answer runs to --max-new-tokens",
            style="yellow",
        )


def _planned(arguments: Arguments, task: _Task, models: Models) -> tuple[int, int]:
    """Say what it will cost; return the nodes of a prompt, and how many prompts go together.

    Raises:
        SettingError: it does not fit into this machine.
    """
    from traces.synera import record_cost

    limit, splits = arguments.max_new_tokens, list(task.splits.values())
    with console.status("timing a few nodes"):
        pace = record_cost.measure_pace(models, task.prompts(), limit)
    budget = arguments.node_budget or pace.seed_nodes(len(task.prompts()), arguments.threads)
    free, answers = record_cost.free_memory(models.placement.device), task.score in scoring.BY_LLM
    found = record_cost.cost(models, pace, splits, limit, budget, arguments.threads, answers=answers, free_bytes=free)
    record_cost.check_room(found, models, free, arguments.folder)
    say("cost", f"{found}; {budget} nodes a prompt (--node-budget)")
    return budget, found.batch


def _references(score: str, prompts: Sequence[Prompt], models: Models, max_new_tokens: int) -> dict[str, str]:
    """What answers are compared with, by prompt; the LLM's own answers where these are it."""
    from traces.synera.record_answers import llm_answers

    if score not in scoring.BY_LLM:
        return {prompt.text: prompt.reference for prompt in prompts if prompt.reference is not None}
    found = {}
    with progress() as bar:
        task = bar.add_task("the LLM's own answers", total=len(prompts))
        for prompt, answer in llm_answers(models, [prompt.text for prompt in prompts], max_new_tokens):
            found[prompt] = answer
            bar.advance(task)
    return found


def _described(graphs: GraphSet, score: str, references: dict[str, str], frame: Frame) -> GraphSet:
    """The same graphs, which also say how their answers were scored and their prompts read."""
    meta = graphs.meta
    compared = tuple(references.get(prompt, "") for prompt in meta.prompts) if references else ()
    return graphs.with_meta(replace(meta, scorer=score, references=compared, frame=frame.stated))


def _row(graphs: GraphSet) -> list[str]:
    sizes, shares = sorted(len(graph) for graph in graphs), graphs.meta.coverage
    spread = f"{sizes[0]} .. {sizes[len(sizes) // 2]} .. {sizes[-1]}"
    return [str(len(graphs)), str(graphs.nodes), spread, *(f"{shares[k]:.4f}" for k in ("closed", "random_steps", *_WALKS))]


def _say_what_comes_next(arguments: Arguments, own: bool) -> None:
    missing = [name for name in ("train", "validation") if name not in arguments.splits]
    test = arguments.folder / "test.safetensors"
    if not missing:
        name = {"name": "own"} if own else {}
        say("next", next_step("train", **name, graphs=arguments.folder))
    elif "test" in arguments.splits:
        say("next", next_step("evaluate", graphs=test))
    else:
        lens = shlex.quote(str(arguments.folder / f"{arguments.splits[0]}.safetensors"))
        say("next", f"the same command with --splits {' '.join(missing)} --lens {lens}, then synera train")
    if own:
        graphs = arguments.folder / f"{arguments.splits[-1]}.safetensors"
        deploy = next_step("deploy", slm=arguments.slm, graphs=graphs)
        say("live", next_step("serve", model=arguments.llm), f"{deploy}   # in another terminal")


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
