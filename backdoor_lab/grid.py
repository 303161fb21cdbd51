"""What a grid needs beside its cells: all are checked first, all are summed up at the end."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

log = logging.getLogger(__name__)


class Grid(Callback):
    """Hydra's callback around a multirun.

    What is heavy is imported where it is used: Hydra builds this class for `--help`, too.
    """

    def __init__(self) -> None:
        self.done = 0
        self.results: list[Path] = []
        self.failed: list[tuple[str, object]] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Compose and check every cell; bad ones end the grid before it begins."""
        from backdoor_lab.parts import Parts

        bad = 0
        for cell in cells(list(config.hydra.overrides.task)):
            try:
                Parts.of(compose("config", overrides=cell))
            except (HydraException, MissingConfigException, OmegaConfBaseException) as error:
                log.error("%s: %s", " ".join(cell), one_line(error))
                bad += 1
        if bad:
            raise SystemExit(1)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Note how a cell ended."""
        value = job_return._return_value
        if job_return.status is JobStatus.COMPLETED and value is None:
            self.done += 1
            if config.export is None:  # an export leaves no result
                self.results.append(Path(config.hydra.runtime.output_dir))
        else:
            self.failed.append((" ".join(job_return.overrides or []), value))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Show the results, and name the cells that failed; the exit code says so too."""
        from backdoor_lab.console import console
        from backdoor_lab.reports.result import read_result
        from backdoor_lab.reports.table import grid_table

        if results := [result for folder in self.results if (result := read_result(folder))]:
            console().print(grid_table(results))
        log.info("%d done, %d failed", self.done, len(self.failed))
        for cell, error in self.failed:
            log.error("failed: %s (%s)", cell, error)
        if self.failed:
            raise SystemExit(1)


def cells(overrides: list[str]) -> list[list[str]]:
    """The overrides of each cell of a grid: the product of all lists."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [cell for batch in BasicSweeper.split_arguments(parsed, None) for cell in batch]


def one_line(error: Exception) -> str:
    """An error with its cause; of Hydra's the folders that it searched are left out."""
    text = str(error) if error.__cause__ is None else f"{error}: {error.__cause__}"
    return " ".join(text.partition("Config search path:")[0].split())
