"""What HAT's graphs hold is what their arrays say, counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.hat import prompts, recorded_hat
from traces.hat.inspection import figures


def test_drafts_are_counted_up_to_the_first_that_differs(tiny_deep: Path) -> None:
    graphs = recorded_hat(tiny_deep)
    found, kept = figures(graphs), []
    for number in range(len(graphs)):
        graph = graphs.graph(number, 0)
        for place in range(len(graph)):
            stood = 0
            for token in graph.draft[place, :, 0].tolist():
                if place + stood >= len(graph) or token != graph.token[place + stood]:
                    break
                stood += 1
            kept.append(stood)
    assert found.places == len(kept)
    assert found.accepted_drafts == pytest.approx(np.mean(kept))
    assert found.first_drafts_right == pytest.approx(np.mean([stood > 0 for stood in kept]))
    assert found.accepted_by_place == pytest.approx([np.mean([stood > place for stood in kept]) for place in range(8)])
    assert 0 < found.first_drafts_right < 1


def test_lengths_and_what_precisions_change_are_those_of_the_answers(tiny_deep: Path) -> None:
    graphs = recorded_hat(tiny_deep)
    found = figures(graphs)
    (kind,) = found.kinds.values()
    assert (found.prompts, kind.prompts) == (len(prompts()), len(prompts()))
    assert found.answers_changed == {name: graphs.meta.notes[f"answers_changed_{name}"] for name in graphs.meta.precisions[1:]}
    assert kind.prompt_tokens_most == max(len(graphs.prompt_tokens(number)) for number in range(len(graphs)))
    assert kind.cut == sum(int(graphs.graph(n, 0).token[-1]) not in graphs.meta.eos_ids for n in range(len(graphs)))
    assert list(found.scores) == ["fp32", "bf16", "int8"]
