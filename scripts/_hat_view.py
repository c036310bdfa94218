"""HAT's graph files as `inspect-trace` shows them: what a file holds, and one prompt's answer with what would be drafted beside it.

What does not live here: the figures (traces/hat/inspection.py).
"""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from runtime.model.split import Split
from runtime.settings import shown
from scripts._cli import console
from scripts._text import harmless
from traces.hat.graph import HatGraphs
from traces.hat.inspection import HatFigures
from traces.synera.graph import spoken

_LONGEST_PROMPT = 1000


def show(path: Path, graphs: HatGraphs, found: HatFigures) -> None:
    """Print a file's figures."""
    meta, size = graphs.meta, path.stat().st_size
    console.print(f"{harmless(str(path))}: HAT, {size / 1e6:.2f} MB, {size / found.places:.0f} bytes a token of an answer")
    console.print(
        f"{found.prompts} {harmless(meta.split)} prompts, answers of up to {meta.max_new_tokens} tokens, context {meta.context}; "
        f"split {Split(meta.first_layers, meta.last_layers)}, states of {meta.hidden} numbers"
    )
    drafter = f"{meta.medusa_heads} Medusa heads" if meta.medusa_heads else "adapter"
    console.print(f"model {meta.model_fingerprint}, {drafter} {meta.adapter_fingerprint}, tokenizer {meta.tokenizer_hash}")
    if meta.notes:
        console.print(f"recorded with: {harmless(', '.join(f'{name} {value}' for name, value in meta.notes.items()))}")
    kept = ", ".join(f"{share:.3f}" for share in found.accepted_by_place)
    console.print(
        f"{found.first_drafts_right:.1%} of first draft tokens are the model's; the longest draft keeps {found.accepted_drafts:.2f} "
        f"tokens, by place {kept}"
    )
    changed = ", ".join(f"{name} {share:.2%}" for name, share in found.answers_changed.items())
    scores = ", ".join(f"{name} {score:.3f}" for name, score in found.scores.items())
    console.print(f"answers changed by the precision of states: {changed or 'there is one alone'}; mean score {scores}")
    console.print(_kinds_table(found))


def _kinds_table(found: HatFigures) -> Table:
    table = Table(title=f"by kind of prompt, in {next(iter(found.scores))}", title_justify="left")
    table.add_column("kind", no_wrap=True)
    heads = ("prompts", "tokens", "most", "answer", "longest", "cut", "first drafts right", "draft keeps", "score")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for name, kind in found.kinds.items():
        table.add_row(
            *(harmless(name), str(kind.prompts), f"{kind.prompt_tokens:.0f}", str(kind.prompt_tokens_most)),
            *(f"{kind.answer_tokens:.0f}", str(kind.answer_tokens_most), str(kind.cut)),
            *(f"{kind.first_drafts_right:.3f}", f"{kind.accepted_drafts:.2f}", f"{kind.score:.3f}"),
        )
    return table


def draw(graphs: HatGraphs, number: int, lines: int) -> None:
    """Print so many places of a prompt's answer, by its number from 1, as they come where every draft is as long as it can be."""
    graph, meta = graphs.graph(number - 1, 0), graphs.meta
    console.print(
        f"prompt {number} ({harmless(graph.kind)}), {len(graph.prompt_tokens)} tokens: {shown(graph.prompt, _LONGEST_PROMPT)}"
    )
    table = Table(title=f"its {len(graph)} tokens in {meta.precisions[0]}, score {graph.score:.3f}", title_justify="left")
    for head in ("place", "token", "draft there", "confidence"):
        table.add_column(head, justify="right" if head in ("place", "confidence") else "left")
    for place in range(min(lines, len(graph))):
        drafted = [token for token in graph.draft[place, :, 0].tolist() if token >= 0]
        words = [shown(spoken([token], meta)) for token in (int(graph.token[place]), *drafted)]
        table.add_row(str(place), harmless(words[0]), harmless(" ".join(words[1:])), f"{graph.confidence[place, 0]:.3f}")
    console.print(table)
    if len(graph) > lines:
        console.print(f"{len(graph) - lines} more; --lines shows them")
