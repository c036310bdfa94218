"""A process that records the same prompts whenever it is asked, with the recorder that is found first on its path.

So two states of the project can take turns; it uses nothing that a recorder has not had from its beginning. What does not live here: who asks, and the figures (record.py).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from traces.synera.graph import GraphSet
from traces.synera.record import Recorder
from traces.synera.record_models import Models
from traces.tasks.splits import Prompt


def main() -> None:
    """Read the task, JSON in a line: pair, prompts, max_new_tokens, node_budget, threads. For each line that follows record them
    all, and write how many nodes were run and are kept.
    """
    task = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)  # the recorder has threads of its own
    models = Models.load(Path(task["pair"]) / "slm", Path(task["pair"]) / "llm")
    prompts = [Prompt(text, kind) for text, kind in task["prompts"]]
    for _ in sys.stdin:
        # Answers are worth nothing: what a score costs is not the recorder's.
        recorder = Recorder(
            models, lambda prompt, answer: 0.0, task["max_new_tokens"], task["node_budget"], workers=task["threads"]
        )
        *_, graphs = recorder.record(prompts, "test")
        assert isinstance(graphs, GraphSet)
        print(sum(int(np.isnan(graph.score).sum()) for graph in graphs), flush=True)


if __name__ == "__main__":
    main()
