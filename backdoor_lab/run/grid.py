"""What a grid needs beside its cells: all are checked first, all are judged by what they left."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from backdoor_lab.config.choices import refuse_choices
from backdoor_lab.config.identity import run_identity
from backdoor_lab.records import Record, read_failure, read_record
from backdoor_lab.run.exits import farewells
from backdoor_lab.run.finished import CODE, State, state_of
from backdoor_lab.run.gate import UNFIT, gate, one_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One run of a grid: its overrides, the folder of its record, the code that shapes it.

    `current` tells whether it was finished before the grid began.
    """

    overrides: tuple[str, ...]
    folder: Path
    code: str
    current: bool = False

    def record(self) -> Record | None:
        """Its result, if the last try left one."""
        record = None if read_failure(self.folder) else read_record(self.folder)
        current = record and record.made_from and record.made_from.code == self.code
        return record if current else None


class Grid(Callback):
    """Hydra's callback around runs; it may be another process that runs a grid's cells."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run before Hydra makes its folder."""
        try:
            gate(config, "run.dir")
        except UNFIT as error:
            raise SystemExit(one_line(error)) from None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Compose and check every cell; bad ones end the grid before it begins.

        A grid that is finished is shown at once: Hydra would take half a second a cell.
        """
        bad = 0
        for overrides in combinations(swept(config)):
            try:
                self.cells.append(checked(overrides))
            except UNFIT as error:
                log.error("%s: %s", " ".join(overrides), one_line(error))
                bad += 1
        if bad:
            raise SystemExit(1)
        farewells.append(partial(self.show, "left"))
        if all(cell.current for cell in self.cells):
            log.info("this grid is finished already; force=true runs it again")
            self.on_multirun_end(config)
            raise SystemExit(0)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Show the results, and name the cells that failed; the exit code says so too."""
        failed = self.show("failed")
        for cell in failed:
            failure = read_failure(cell.folder)
            reason = failure.error if failure else "left no result"
            log.error("failed: %s (%s)", " ".join(cell.overrides), reason)
        if failed:
            raise SystemExit(1)

    def show(self, others: str) -> list[Cell]:
        """Show the results there are; the cells without one are counted as `others`, and told."""
        from backdoor_lab.console import console
        from backdoor_lab.reports.table import grid_table

        records = {cell: cell.record() for cell in self.cells}
        missing = [cell for cell, record in records.items() if record is None]
        if scored := [record for record in records.values() if record and record.victim]:
            console().print(grid_table(scored))
        log.info("%d done, %d %s", len(records) - len(missing), len(missing), others)
        return missing


def checked(overrides: tuple[str, ...]) -> Cell:
    """A cell as Hydra will run it; what is finished needs no check, and no torch.

    Raises:
        ConfigError: it cannot work.
    """
    refuse_choices(overrides)
    cfg = compose("config", list(overrides), return_hydra_config=True)
    gate(cfg, "sweep.subdir")
    folder = Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir
    current = state_of(cfg, folder)[1] is State.CURRENT
    if not current:
        from backdoor_lab.run.parts import Parts

        Parts.of(cfg)
    return Cell(overrides, folder, CODE.of(run_identity(cfg)), current)


def swept(config: DictConfig) -> list[str]:
    """What the command line and a preset (`hydra.sweeper.params`) sweep or set."""
    task = list(config.hydra.overrides.task)
    typed = {override.partition("=")[0] for override in task}
    params = config.hydra.sweeper.get("params") or {}
    return [f"{key}={value}" for key, value in params.items() if key not in typed] + task


def combinations(overrides: list[str]) -> list[tuple[str, ...]]:
    """The overrides of each cell of a grid: the product of all lists."""
    choices = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [one.input_line or ""]
        for one in OverridesParser.create().parse_overrides(overrides)
    ]
    return list(itertools.product(*choices))
