"""What a grid needs beside its cells: all are checked first, all are judged by what they left."""

from __future__ import annotations

import atexit
import itertools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from backdoor_lab.config.identity import run_identity
from backdoor_lab.records import Record, read_failure, read_record
from backdoor_lab.run.finished import CODE, State, state_of

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
    """Hydra's callback around a multirun; it may be another process that runs the cells."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.ended = False

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Compose and check every cell; bad ones end the grid before it begins.

        A grid that is finished is shown at once: Hydra would take half a second a cell.
        """
        bad = 0
        for overrides in combinations(swept(config)):
            try:
                self.cells.append(checked(overrides))
            except (HydraException, MissingConfigException, OmegaConfBaseException) as error:
                log.error("%s: %s", " ".join(overrides), one_line(error))
                bad += 1
        if bad:
            raise SystemExit(1)
        atexit.register(self.leave)
        if all(cell.current for cell in self.cells):
            log.info("this grid is finished already; force=true runs it again")
            self.on_multirun_end(config)
            raise SystemExit(0)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Show the results, and name the cells that failed; the exit code says so too."""
        self.ended = True
        if self.sum_up():
            raise SystemExit(1)

    def leave(self) -> None:
        """The summary of a grid that was asked to end before its time."""
        if not self.ended:
            self.sum_up()

    def sum_up(self) -> int:
        """Show the results, name the cells without one, and count these."""
        from backdoor_lab.console import console
        from backdoor_lab.reports.table import grid_table

        records = {cell: cell.record() for cell in self.cells}
        failed = [cell for cell, record in records.items() if record is None]
        if scored := [record for record in records.values() if record and record.victim]:
            console().print(grid_table(scored))
        log.info("%d done, %d failed", len(records) - len(failed), len(failed))
        for cell in failed:
            failure = read_failure(cell.folder)
            reason = failure.error if failure else "left no result"
            log.error("failed: %s (%s)", " ".join(cell.overrides), reason)
        return len(failed)


def checked(overrides: tuple[str, ...]) -> Cell:
    """A cell as Hydra will run it; what is finished needs no check, and no torch.

    Raises:
        ConfigError: it cannot work.
    """
    cfg = compose("config", list(overrides), return_hydra_config=True)
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


def one_line(error: Exception) -> str:
    """An error with its cause; of Hydra's the folders that it searched are left out."""
    text = str(error) if error.__cause__ is None else f"{error}: {error.__cause__}"
    return " ".join(text.partition("Config search path:")[0].split())
