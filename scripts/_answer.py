"""A live answer as a table: what was drafted, what was decided for each chunk, what came of it.

What does not live here: the answering (deploy.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from runtime.synera.chunk import ChunkRecord
from scripts._cli import console
from scripts._text import harmless

if TYPE_CHECKING:
    from runtime.device import Device


def show_answer(prompt: str, answer: Sequence[int], records: Sequence[ChunkRecord], device: Device, link: str) -> None:
    """Print an answer, chunk by chunk, and what it took."""
    table = Table(title=f"{harmless(prompt)}  (link {link})", title_justify="left")
    for column in ("chunk", "draft", "confidence", "importance", "decision", "cloud kept", "committed", "at s"):
        table.add_column(column, justify="right" if column in ("chunk", "confidence", "importance", "at s") else "left")
    for number, r in enumerate(records, 1):
        decision = "keep" if not r.offloaded else "offload" if r.verdict else "offload, lost"
        kept = f"{r.verdict.accepted}/{len(r.draft.tokens)}" if r.verdict else ""
        words = [harmless(device.text(ids, special=True)) for ids in (r.draft.ids, r.committed)]
        table.add_row(
            str(number),
            words[0],
            f"{r.draft.confidence:.3f}",
            f"{r.draft.importance:.2f}",
            decision,
            kept,
            words[1],
            f"{r.committed_at:.3f}",
        )
    console.print(table)
    console.print(f"answer: {harmless(device.text(answer))}")
    offloaded = sum(r.offloaded for r in records)
    console.print(f"{records[-1].committed_at:.2f} s, {offloaded} of {len(records)} chunks offloaded")
    if lost := [r.error for r in records if r.error]:
        why = harmless(str(lost[0]))
        console.print(f"the cloud was lost for {len(lost)} chunks; the device went on alone: {why}", style="yellow")
    console.print()
