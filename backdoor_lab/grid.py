"""What a grid needs beside its cells: all are checked first, failures are named at the end."""

from __future__ import annotations

import logging
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

log = logging.getLogger(__name__)


class Grid(Callback):
    """Hydra's callback around a multirun."""

    def __init__(self) -> None:
        self.finished = 0
        self.failed: list[tuple[str, object]] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Compose and check every cell; the first bad one ends the grid before it begins."""
        from backdoor_lab.errors import ConfigError
        from backdoor_lab.parts import Parts

        for cell in cells(list(config.hydra.overrides.task)):
            try:
                Parts.of(compose("config", overrides=cell))
            except ConfigError as error:
                log.error("%s: %s", " ".join(cell), error)
                raise SystemExit(1) from None

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Note how a cell ended."""
        value = job_return._return_value
        if job_return.status is JobStatus.COMPLETED and value is None:
            self.finished += 1
        else:
            self.failed.append((" ".join(job_return.overrides or []), value))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Name the cells that failed; the exit code says so too."""
        log.info("%d done, %d failed", self.finished, len(self.failed))
        for cell, error in self.failed:
            log.error("failed: %s (%s)", cell, error)
        if self.failed:
            raise SystemExit(1)


def cells(overrides: list[str]) -> list[list[str]]:
    """The overrides of each cell of a grid: the product of all lists."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [cell for batch in BasicSweeper.split_arguments(parsed, None) for cell in batch]
