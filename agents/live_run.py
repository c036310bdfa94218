"""The folder of a live run: its configuration, every decision as a line, and TensorBoard under the tags of a training.

What does not live here: the lines (runtime/telemetry.py), the tags and what is shown under them (scalars.py).
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from agents.scalars import CONFIGURATION, LAYOUT, Means, configuration_table, paid_by_step
from runtime.settings import shown
from synera_env import Preference, Schema, SettingError, StepRecord, TraceError, write_json
from synera_env.hat.charge import charging, check_first_token_weight
from synera_env.metrics import Charged, EpisodeMetrics, cost_of, episode_metrics
from synera_env.telemetry import DECISIONS, AppendFile, Begun, DecisionLog, Ended, Settled, prompt_hash


class LiveScalars:
    """Shows live answers in TensorBoard; the x axis is decisions so far. Thread-safe; who makes it closes it.

    Each answer is written at its end and at once, by this thread: so no decision waits for it, and a process that is
    killed loses the answer under way alone. A file that has reached its bound stays as it is. `SummaryWriter` of torch,
    which trainings use, hands every value to a thread that keeps it for up to two minutes, and that dies with a trace
    where the disk is full; the records in its files are the same.
    """

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        """Begin an event file.

        Args:
            folder: where; it is there.
            configuration: shown as text.

        Raises:
            OSError: the file cannot be made.
        """
        from torch.utils.tensorboard.summary import custom_scalars, text  # only who logs waits for it

        self._file = AppendFile(folder / f"events.out.tfevents.{time.time():010.0f}.{secrets.token_hex(6)}")
        self._lock = threading.Lock()
        self._means, self._decisions = Means(), 0
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(summary=text(CONFIGURATION, configuration_table(configuration))))
        self._write(Event(summary=custom_scalars(LAYOUT)))

    @property
    def lost(self) -> int:
        """Events that could not be written."""
        return self._file.lost

    def answered(
        self,
        records: Sequence[StepRecord],
        metrics: EpisodeMetrics | None,
        preference: Preference,
        charged: Charged = cost_of,
    ) -> None:
        """Show an answer: each decision's knobs, then, at the last, what is by answer.

        Args:
            records: of its steps.
            metrics: None where it was given up; its decisions are shown all the same.
            preference: what its reward is of.
            charged: what that charges for a record.
        """
        with self._lock:
            for record in records:
                self._show()
                self._decisions += 1
                self._means.decided({f.name: getattr(record.knobs, f.name) for f in fields(record.knobs)})
            if metrics is not None:
                for terms in paid_by_step(records, metrics.quality, preference, charged):
                    self._means.paid(terms)
                self._means.ended(vars(metrics))
            self._show()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _show(self) -> None:
        if means := self._means.take():
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in means.items()]
            self._write(Event(step=self._decisions, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        RecordWriter(self._file).write(event.SerializeToString())


class LiveAnswer:
    """An answer of a live run, while it is given."""

    def __init__(self, log: DecisionLog, begun: Begun) -> None:
        self._log, self._answer = log, begun.answer
        self.records: list[StepRecord] = []
        self.quality = float("nan")
        """Task score in 0..1, to be set by who can tell, before the answer's end."""
        log.write(begun)

    def settled(self, record: StepRecord) -> None:
        """Write a step down."""
        self.records.append(record)
        self._log.write(Settled(answer=self._answer, number=len(self.records), record=record))

    def ended(self, metrics: EpisodeMetrics | None, error: str | None = None) -> None:
        """Write the end down; `error` says why there are no metrics."""
        stated = asdict(metrics) if metrics else {}
        self._log.write(Ended(answer=self._answer, steps=len(self.records), quality=self.quality, metrics=stated, error=error))


class LiveRun:
    """A live run that is written down; answers may be given side by side. Who makes it closes it.

    The folder gets `config.json`, `decisions.jsonl` (read back by `synera_env.telemetry.read_run`) and `tb/`. It holds the
    tokens of every answer, so its files are their owner's alone; prompts only where asked for. What cannot be written
    while answers are given, costs none of them.
    """

    def __init__(
        self,
        folder: Path,
        schema: Schema,
        *,
        controller: str,
        fingerprints: Mapping[str, str],
        configuration: Mapping[str, Any],
        keep_prompts: bool = False,
        first_token_weight: float = 1.0,
    ) -> None:
        """Begin a run.

        Args:
            folder: an empty one, or one that is not there and is made.
            schema: what the controller sees and sets.
            controller: its name.
            fingerprints: of models, tokenizers, tables and the policy, by what they are.
            configuration: what else a reader should know, plain data.
            keep_prompts: write the text of prompts, too.
            first_token_weight: of HAT, how many times a second before the first token counts in the reward, as in its environments.

        Raises:
            SettingError: there is something in the folder, or the weight is out of its range.
            TraceError: nothing can be written there.
        """
        check_unused(folder)
        check_first_token_weight(first_token_weight)
        self._first_token_weight, self._charged = first_token_weight, charging(first_token_weight)
        self._schema, self._controller, self._keep_prompts = schema, controller, keep_prompts
        self._fingerprints, self._id, self._numbers = dict(fingerprints), secrets.token_hex(6), itertools.count(1)
        stated = {
            "run": self._id,
            "system": schema.system,
            "schema_hash": schema.hash,
            "controller": controller,
            "fingerprints": self._fingerprints,
            **configuration,
        }
        write_json(folder / "config.json", stated)
        try:
            (folder / "tb").mkdir(exist_ok=True)
            self._log = DecisionLog(folder / DECISIONS)
            self._scalars = LiveScalars(folder / "tb", stated)
        except OSError as error:
            raise TraceError(f"cannot write to {shown(str(folder), 200)}: {error.strerror}; name another folder") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def lost(self) -> int:
        """Lines and events that could not be written."""
        return self._log.lost + self._scalars.lost

    @contextmanager
    def answer(
        self, prompt: str, prompt_tokens: int, *, preference: Preference, seed: int = 0, link: str = "real"
    ) -> Iterator[LiveAnswer]:
        """Write an answer down: its beginning now, its end when the block ends, also when that fails.

        Args:
            prompt: its text.
            prompt_tokens: its length.
            preference: what the controller is told to value.
            seed: of the answer's draws.
            link: name of the emulated link.

        Yields:
            What each step is to be told to.
        """
        begun = Begun(
            answer=next(self._numbers),
            run=self._id,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            system=self._schema.system,
            schema_hash=self._schema.hash,
            controller=self._controller,
            preference=asdict(preference),
            fingerprints=self._fingerprints,
            seed=seed,
            link=link,
            prompt_tokens=prompt_tokens,
            prompt_sha256=prompt_hash(prompt),
            prompt=prompt if self._keep_prompts else None,
            first_token_weight=self._first_token_weight,
        )
        answer = LiveAnswer(self._log, begun)
        try:
            yield answer
        except BaseException as error:
            answer.ended(None, type(error).__name__)  # its message may quote the prompt
            self._scalars.answered(answer.records, None, preference)
            raise
        metrics = episode_metrics(answer.records, answer.quality, preference, self._charged)
        answer.ended(metrics)
        self._scalars.answered(answer.records, metrics, preference, self._charged)

    def close(self) -> None:
        """Close the files."""
        self._log.close()
        self._scalars.close()


def check_unused(folder: Path) -> None:
    """Do nothing for a folder that is empty, or is not there.

    Raises:
        SettingError: there is something in it; runs are never added to, so each has one configuration and one x axis.
    """
    if folder.is_dir() and any(folder.iterdir()):
        held = "a live run" if (folder / DECISIONS).exists() else "files"
        raise SettingError(f"{shown(str(folder), 200)} holds {held} already; name another folder for this run")
