"""Status: how each grid stands, from its file and the records; loads without torch."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from backdoor_lab.console import console, say
from backdoor_lab.run.cells import Cell
from backdoor_lab.run.claims import is_claimed
from backdoor_lab.run.ledger import GRIDS, Ledger
from backdoor_lab.tasks._look import Look

STATES = ("done", "running", "failed", "missing")
NAMED = 20  # cells that are named; of the others the number is told


class Status(Look):
    """Done, running, failed and missing cells of every grid below `outputs`, newest last."""

    def look(self, outputs: Path) -> None:
        files = (outputs / GRIDS).glob("*.json")
        found = [ledger for ledger in map(Ledger.read, files) if ledger]
        if not found:
            console().print(f"No grid in {outputs / GRIDS}", soft_wrap=True)
        for ledger in sorted(found, key=lambda one: one.started):
            show(ledger)


def show(ledger: Ledger) -> None:
    """One grid: its counts, the command that goes on with it, and why cells have no result."""
    states = [state(cell) for cell in ledger.cells]
    table = Table(title=f"{ledger.file.stem}, begun {ledger.started}", title_justify="left")
    for word in ("cells", *STATES):
        table.add_column(word, justify="right")
    counts = (sum(word == one for one, _ in states) for word in STATES)
    table.add_row(*map(str, (len(states), *counts)))
    console().print(table)
    say([f"Goes on with: {ledger.command}"])
    lines = [
        f"{word}{f' ({why})' if why else ''}: {ledger.command_of(cell)}"
        for cell, (word, why) in zip(ledger.cells, states, strict=True)
        if word not in ("done", "running")
    ]
    say([*lines[:NAMED], *([f"and {len(lines) - NAMED} more"] if len(lines) > NAMED else [])])


def state(cell: Cell) -> tuple[str, str | None]:
    """What became of a cell, and why."""
    if cell.record():
        return "done", None
    if cell.folder.is_dir() and is_claimed(cell.folder):
        return "running", None
    failure = cell.failure()
    return ("failed", failure.error) if failure else ("missing", None)
