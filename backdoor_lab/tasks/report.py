"""Report: what runs have left, as a page that opens from disk; loads without torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from backdoor_lab.console import console
from backdoor_lab.reports.page import Trouble, read_runs, write_page
from backdoor_lab.run.gate import made_readable
from backdoor_lab.run.ledger import GRIDS, Ledger
from backdoor_lab.tasks._look import Look
from backdoor_lab.tasks.status import state


class Report(Look):
    """A page of all results below `outputs`, and a page of each run."""

    def look(self, outputs: Path) -> None:
        found = read_runs(outputs)
        troubles = [*found.failures, *troubles_of(outputs, found.failed)]
        try:
            page = write_page(outputs, found, troubles)
        except OSError as error:
            raise made_readable(error) from None
        runs, other = len(found.records), len(troubles)
        counted = f"{runs} run{'' if runs == 1 else 's'}, {other} without a result"
        console().print(f"Page: {page} ({counted})", soft_wrap=True, highlight=False)


def troubles_of(outputs: Path, known: set[Path]) -> Iterator[Trouble]:
    """Cells of grids without a result, each once, but for those that are known to have failed."""
    met = set(known)
    files = sorted((outputs / GRIDS).glob("*.json"))
    for ledger in filter(None, map(Ledger.read, files)):
        for cell in ledger.cells:
            if cell.folder in met:
                continue
            met.add(cell.folder)
            word, why = state(cell)
            if word != "done":
                yield Trouble.of_cell(word, why, cell.overrides, ledger.command_of(cell))
