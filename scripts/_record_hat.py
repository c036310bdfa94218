"""Recording HAT's graphs: what the whole model answers through its split, in each precision, and what would be drafted beside it.

What does not live here: the arguments (record.py) and the recorder (traces/hat/record.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from runtime.wire.sizes import PRECISIONS
from scripts._cli import console, next_step, progress, say
from scripts._text import harmless
from traces import bundled
from traces.hat.dialogues import Dialogue, dialogues
from traces.hat.inspection import figures
from traces.tasks import scoring
from traces.tasks.splits import Prompt

if TYPE_CHECKING:  # torch loads only after the arguments are understood
    from scripts.record import Arguments
    from traces.hat.graph import HatGraphs
    from traces.hat.record import HatModels


def record(arguments: Arguments, splits: dict[str, list[Prompt]], score: str) -> None:
    """Record every split.

    Args:
        arguments: of the command.
        splits: the user's own prompts by split; those of a bundled task are a dialogue's.
        score: name of what answers are scored by.

    Raises:
        SyneraError: a file or a model cannot be used.
    """
    import torch

    torch.set_num_threads(arguments.threads)
    prompts = {name: _asked(arguments, name, own) for name, own in splits.items()}
    models = _models(arguments, [each.text for part in prompts.values() for each in part])
    own = not _is_bundled(arguments)
    console.print(f"split {models.split}, first and last layers on the device; prompts are read {harmless(str(models.frame))}")
    table = Table("split", "prompts", "tokens of a prompt", "of an answer", "first drafts right", *_changed(), "kB")
    for name, part in prompts.items():
        graphs = _recorded(arguments, models, part, splits[name], name, score)
        if own:  # where an evaluation of them finds what is to be deployed
            graphs.meta.notes.update(model=str(arguments.model), adapter=str(arguments.adapter))
        path = arguments.folder / f"{name}.safetensors"
        graphs.save(path)
        table.add_row(name, *_row(graphs), f"{path.stat().st_size / 1e3:.0f}")
    console.print(table)
    _say_what_comes_next(arguments, own)


def _asked(arguments: Arguments, split: str, own: Sequence[Prompt]) -> list[Dialogue]:
    """The prompts of a split; each own one is its own question."""
    if arguments.prompts is not None:
        return [Dialogue(prompt.text, prompt.text, prompt.kind, 0) for prompt in own]
    return dialogues(split, arguments.counted(split))


def _is_bundled(arguments: Arguments) -> bool:
    return arguments.model == bundled.PAIR / "llm" and arguments.adapter == bundled.ADAPTER


def _models(arguments: Arguments, texts: Sequence[str]) -> HatModels:
    """Load the model and its adapter, with the frame that prompts are put into."""
    from runtime.model.hub import model_folder
    from scripts._frames import asked_frame
    from traces.hat.record import HatModels

    a, folder = arguments, model_folder(arguments.model)
    frame = asked_frame(folder, folder, texts, chat=a.chat, system=a.system_message, thinking=a.thinking, bos=a.bos, lens=None)
    return HatModels.load(folder, a.adapter, frame=frame)


def _recorded(
    arguments: Arguments, models: HatModels, prompts: Sequence[Dialogue], own: Sequence[Prompt], split: str, score: str
) -> HatGraphs:
    """Record a split with a progress bar."""
    from traces.hat.record import HatRecorder

    references = {prompt.text: prompt.reference for prompt in own if prompt.reference is not None}
    with progress() as bar:
        if score in scoring.BY_LLM:
            references = {}
            unscored = HatRecorder(models, lambda question, answer: 0.0, score, arguments.max_new_tokens)
            task = bar.add_task(f"{split}: the model's own answers", total=len(prompts))
            for prompt in prompts:
                said = unscored.answer(models.frame.encode(models.tokenizer, prompt.text), PRECISIONS[0])
                references[prompt.text] = models.tokenizer.decode(said, skip_special_tokens=True)
                bar.advance(task)
        scorer = scoring.scorer(score, references, arguments.score)
        recorder = HatRecorder(models, scorer, score, arguments.max_new_tokens)
        task = bar.add_task(f"record {split}", total=len(prompts))
        return recorder.record(prompts, split, lambda: bar.advance(task))


def _changed() -> list[str]:
    return [f"answers changed by {name}" for name in PRECISIONS[1:]]


def _row(graphs: HatGraphs) -> list[str]:
    found = figures(graphs)
    changed = [f"{share:.4f}" for share in found.answers_changed.values()]
    return [
        str(found.prompts),
        f"{found.prompt_tokens:.0f}",
        f"{found.answer_tokens:.0f}",
        f"{found.first_drafts_right:.3f}",
        *changed,
    ]


def _say_what_comes_next(arguments: Arguments, own: bool) -> None:
    out, missing = arguments.folder, [name for name in ("train", "validation") if name not in arguments.splits]
    test = out / "test.safetensors"
    if not missing:
        say("next", next_step("train", system="hat", name="own-hat" if own else "hat", graphs=out))
    elif "test" in arguments.splits:
        say("next", next_step("evaluate", system="hat", graphs=test))
    else:
        say("next", f"the same command with --splits {' '.join(missing)}, then synera train --system hat")
