"""Graph files as `inspect-trace` shows them as text: what a file holds, and one prompt's graph.

What does not live here: the figures (traces/synera/inspection.py) and the picture of a graph (_tree_view.py).
"""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from runtime.settings import shown
from scripts._cli import console
from scripts._text import harmless
from traces.synera.graph import GraphSet
from traces.synera.inspection import GraphFigures, picture

_LONGEST_PROMPT = 500


def show(path: Path, graphs: GraphSet, found: GraphFigures) -> None:
    """Print a file's figures."""
    meta, size = graphs.meta, path.stat().st_size
    exits = ", ".join(map(str, meta.exit_layers))
    console.print(f"{harmless(str(path))}: {size / 1e6:.1f} MB, {size / found.nodes:.0f} bytes a node")
    console.print(
        f"{found.prompts} {harmless(meta.split)} prompts, answers of up to {meta.max_new_tokens} tokens, context {meta.context}; "
        f"exits after layer {exits} of {meta.layers}"
    )
    console.print(f"models: SLM {meta.slm_fingerprint}, LLM {meta.llm_fingerprint}, tokenizer {meta.tokenizer_hash}")
    directions = graphs.lens_tensors["lens.directions"].shape
    console.print(f"lens: {directions[1]} directions of a hidden state of {directions[2]}, for each exit")
    if meta.notes:
        console.print(f"recorded with: {harmless(', '.join(f'{name} {value}' for name, value in meta.notes.items()))}")
    console.print(
        f"{found.nodes} nodes, {found.ends} of them the end of an answer; of {found.ways} tokens that are said at the others "
        f"{found.unrecorded} lead out ({found.unrecorded / max(1, found.ways):.2%}); SLM and LLM disagree at {found.disagree:.1%}"
    )
    console.print(_kinds_table(found))
    if meta.coverage:
        stated = ", ".join(f"{name} {share:.4f}" for name, share in meta.coverage.items())
        console.print(f"stated coverage, of walks by the token: {harmless(stated)}")


def _kinds_table(found: GraphFigures) -> Table:
    table = Table(title="by kind of prompt", title_justify="left")
    table.add_column("kind", no_wrap=True)
    heads = ("prompts", "closed", "nodes, median", "most", "longest answer", "SLM's own score", "of", "LLM's own score", "of")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for name, kind in found.kinds.items():
        table.add_row(
            *(harmless(name), str(kind.prompts), str(kind.closed), f"{kind.nodes_median:g}", str(kind.nodes_most)),
            *(str(kind.deepest), _score(kind.slm_score), str(kind.slm_inside), _score(kind.llm_score), str(kind.llm_inside)),
        )
    return table


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def draw(graphs: GraphSet, number: int, lines: int) -> None:
    """Print the graph of a prompt, by its number from 1, in that many branches."""
    graph = graphs[number - 1]
    console.print(f"prompt {number} ({harmless(graph.kind)}), {len(graph)} nodes: {shown(graph.prompt, _LONGEST_PROMPT)}")
    for line in picture(graphs, number - 1, lines):
        console.print(harmless(line))
    console.print("[who says it, the exit's probability] tokens until they differ again; = score, -> out, ... left out here")
