"""A grid: all cells are checked first, each is run once, and all are judged by what they left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from backdoor_lab.config.choices import refuse_choices
from backdoor_lab.records import forget_failure
from backdoor_lab.run.cells import Cell, combinations, swept, victims_first
from backdoor_lab.run.checking import check_all
from backdoor_lab.run.claims import is_claimed
from backdoor_lab.run.exits import farewells
from backdoor_lab.run.folders import refuse_folders
from backdoor_lab.run.ledger import Ledger
from backdoor_lab.store.locks import Busy

log = logging.getLogger(__name__)
Launch = Callable[[list[list[str]], int], Sequence[JobReturn]]
SHOWN = 500  # cells; a longer table is left to reports


def run_grid(config: DictConfig, launch: Launch, elsewhere: bool = False) -> None:
    """Check all cells, write down what they are, run those that are not finished, judge all.

    Args:
        config: of the command, Hydra's own node included.
        launch: runs cells; it is handed their overrides and the number of the first.
        elsewhere: whether it does so on other machines.

    Raises:
        SystemExit: a cell cannot work, and none was run; or some have no result.
    """
    cells = admitted(config, elsewhere)
    Ledger.of(config, cells).write()
    farewells.append(partial(show, cells, "left"))
    for cell in cells:
        if cell.current:
            forget_failure(cell.folder)  # of a later try that was not needed
    if all(cell.current for cell in cells):
        log.info("this grid is finished already; force=true runs it again")
    else:
        work_off(victims_first(cell for cell in cells if not cell.current), launch)
    failed = show(cells, "failed")
    for cell in failed:
        log.error("failed: %s (%s)", " ".join(cell.overrides), cell.why())
    if failed:
        raise SystemExit(1)


def admitted(config: DictConfig, elsewhere: bool) -> list[Cell]:
    """All cells; those that cannot work are named, and end the grid before it begins."""
    refuse_folders(config.hydra)
    grids = swept(config)
    for grid in grids:
        refuse_choices(grid)
    asked = combinations(grids)
    cells = []
    for overrides, found in zip(asked, check_all(asked, elsewhere), strict=True):
        if isinstance(found, Cell):
            cells.append(found)
        else:
            log.error("%s: %s", " ".join(overrides), found)
    if len(cells) < len(asked):
        raise SystemExit(1)
    return cells


def work_off(cells: list[Cell], launch: Launch) -> None:
    """Run cells; what another process is running is looked at again when it has ended."""
    busy: list[Cell] = []
    number = 0
    while cells:
        ended = launch([list(cell.overrides) for cell in cells], number)
        number += len(cells)
        busy += [cell for cell, one in zip(cells, ended, strict=True) if is_busy(one)]
        cells = []
        if busy:
            log.info("%d cells are run by another process; waiting for it", len(busy))
        while busy and not cells:
            time.sleep(0.5)
            freed = [cell for cell in busy if not is_claimed(cell.folder)]
            busy = [cell for cell in busy if cell not in freed]
            cells = [cell for cell in freed if not (cell.record() or cell.failure())]


def is_busy(ended: JobReturn) -> bool:
    """Whether a cell was left to another process."""
    return ended.status is JobStatus.COMPLETED and isinstance(ended.return_value, Busy)


def show(cells: list[Cell], others: str) -> list[Cell]:
    """Show the results there are; the cells without one are counted as `others`, and told."""
    from backdoor_lab.console import console
    from backdoor_lab.reports.table import grid_table

    missing, scored = [], []
    for cell in cells:
        record = cell.record()
        if record is None:
            missing.append(cell)
        elif record.victim and len(cells) <= SHOWN:
            scored.append(record)
    if scored:
        console().print(grid_table(scored))
    log.info("%d done, %d %s", len(cells) - len(missing), len(missing), others)
    return missing
