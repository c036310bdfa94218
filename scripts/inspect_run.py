"""Show what live runs wrote down (synera deploy --log): means by controller, or one answer chunk by chunk.

Examples:
    synera inspect-run runs/live/mine
    synera inspect-run runs/live/mine runs/live/threshold    # side by side
    synera inspect-run runs/live/mine --answer 2
"""

from __future__ import annotations

import shlex
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from runtime.errors import SettingError
from runtime.settings import shown, whole
from scripts._cli import console, launch, say
from scripts._contestants import distinct_names
from scripts._report import table
from scripts._text import harmless
from synera_env import TraceError, summarise
from synera_env.telemetry import DECISIONS, LoggedAnswer, RunLog, read_run

_MOST_ANSWERS = 2**31


@dataclass(frozen=True)
class Arguments:
    """Show live runs."""

    run: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or their files of lines."""
    answer: int | None = None
    """Show this answer of the run, by its number, chunk by chunk."""

    def __post_init__(self) -> None:
        if not self.run:
            raise SettingError("no run is named; name the folder of one: synera inspect-run FOLDER")
        if self.answer is not None:
            whole("answer", self.answer, 1, _MOST_ANSWERS)
            if len(self.run) > 1:
                raise SettingError(f"answer={self.answer} is of one run, and {len(self.run)} are named; name one")


def main(arguments: Arguments) -> None:
    """Read, print.

    Raises:
        TraceError: a file cannot be used, or holds no answer that is whole.
        SettingError: the run has no such answer.
    """
    folders = [path.parent if path.name == DECISIONS else path for path in arguments.run]
    runs = {name: read_run(path) for name, path in distinct_names(folders).items()}
    if arguments.answer is not None:
        (log,) = runs.values()
        answer = next((each for each in log.answers if each.begun.answer == arguments.answer), None)
        if answer is None:
            raise SettingError(f"the run has no answer {arguments.answer}; it has {len(log.answers)} answers")
        _show(answer)
        return
    means = {
        f"{controller} ({name})" if len(runs) > 1 else controller: {"live": found}
        for name, log in runs.items()
        for controller, found in _means(name, log).items()
    }
    answers = sum(each.whole for log in runs.values() for each in log.answers)
    console.print(table(means, f"live, {answers} answers"))
    for name, log in runs.items():
        _say_what_is_left_out(name, log)
    first = next(iter(runs.values())).answers[0].begun.answer
    say("next", shlex.join(["synera", "inspect-run", str(arguments.run[0]), "--answer", str(first)]))


def _means(run: str, log: RunLog) -> dict[str, dict[str, float]]:
    """Means by controller over a run's whole answers, intervals by prompt."""
    by_controller: dict[str, list[LoggedAnswer]] = {}
    for each in log.answers:
        if each.whole:
            by_controller.setdefault(each.begun.controller, []).append(each)
    if not by_controller:
        raise TraceError(f"run {shown(run)} holds no answer that was given to its end")
    prompts = {sha256: number for number, sha256 in enumerate({each.begun.prompt_sha256 for each in log.answers})}
    return {
        controller: summarise([each.metrics() for each in answers], [prompts[each.begun.prompt_sha256] for each in answers])
        for controller, answers in by_controller.items()
    }


def _say_what_is_left_out(run: str, log: RunLog) -> None:
    said = []
    if broken := sum(not each.whole for each in log.answers):
        said.append(f"{broken} of {len(log.answers)} answers are not whole (given up, under way, or lines of them lost)")
    if log.headless:
        said.append(f"{log.headless} lines are of answers whose beginning is not there any more")
    if log.torn:
        said.append("a last line is cut off (the process was killed as it wrote, or is writing still)")
    if said:
        console.print(f"not counted of {harmless(run)}: {'; '.join(said)}", style="yellow")


def _show(answer: LoggedAnswer) -> None:
    """One line a chunk."""
    begun = answer.begun
    title = f"answer {begun.answer}, {begun.time}: {begun.controller} on link {begun.link}, a prompt of {begun.prompt_tokens} tokens"
    out = Table(title=harmless(title), title_justify="left")
    knobs = [f.name for f in fields(answer.records[0].knobs)] if answer.records else []
    for column in ("chunk", "decision", "confidence", "draft", "cloud kept", "committed", "s", "J", "at s", "knobs"):
        out.add_column(column, justify="left" if column in ("decision", "knobs") else "right")
    for number, r in enumerate(answer.records, 1):
        out.add_row(str(number), *_cells(r))
    if begun.prompt is not None:
        console.print(f"prompt: {harmless(begun.prompt)}")
    console.print(out)
    console.print(f"knobs: {', '.join(knobs)}; draft, kept and committed in tokens")
    if lost := [r.error for r in answer.records if r.error]:
        console.print(f"the cloud was lost for {len(lost)} chunks: {harmless(lost[0])}", style="yellow")
    if answer.whole:
        m = answer.metrics()
        console.print(f"{m.tokens} tokens, {m.seconds:.2f} s, {m.joules:.2f} J, quality {m.quality:.3f}, reward {m.reward:.3f}")
    else:
        why = f": {answer.ended.error}" if answer.ended and answer.ended.error else ""
        console.print(f"this answer is not whole{harmless(why)}", style="yellow")


def _cells(record: Any) -> tuple[str, ...]:
    """A step of any system; of one that drafts, its confidence."""
    confidence = getattr(record, "confidence", None)
    return (
        "keep" if not record.offloaded else "offload" if record.error is None else "lost",
        f"{confidence:.3f}" if confidence is not None and record.drafted else "",
        str(len(record.drafted)),
        f"{record.accepted}/{record.judged}" if record.judged else "",
        str(len(record.committed)),
        f"{record.cost.seconds:.3f}",
        f"{record.cost.joules:.3f}",
        f"{record.committed_at:.3f}",
        " ".join(f"{value:.3g}" for value in astuple(record.knobs)),
    )


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
