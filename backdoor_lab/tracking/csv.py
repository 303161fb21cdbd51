"""Tracking in plain files: `csv/metrics.csv` a row an epoch, `csv/summary.csv` one row."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

from backdoor_lab.tracking._base import RunInfo, Tracker, flat


class CSVTracker(Tracker):
    """Writes folder/csv; pictures lie in the run's folder already."""

    def __init__(self) -> None:
        self._logger: CSVLogger | None = None
        self._folder = Path()
        self._summary: dict[str, Any] = {}

    @property
    def lightning_logger(self) -> CSVLogger | None:
        return self._logger

    def summary(self, values: Mapping[str, Any]) -> None:
        self._summary |= flat(values)

    def images(self, pictures: Mapping[str, Path]) -> None:
        return

    def _open(self, info: RunInfo) -> None:
        self._folder = info.folder / "csv"
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "metrics.csv").unlink(missing_ok=True)
        self._summary = {
            "name": info.name,
            "group": info.group,
            "job_type": info.job_type,
            "tags": " ".join(info.tags),
        }
        self._logger = _RowLogger(info.folder, name="csv", version="")

    def _close(self, exit_code: int) -> None:
        if self._logger is not None:
            self._logger.finalize("failed" if exit_code else "success")
            self._logger = None
        row = {**self._summary, "exit_code": exit_code}
        with (self._folder / "summary.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row)


class _RowLogger(CSVLogger):
    """Counts rows over all trainings of a run; Lightning's own count restarts at each flush."""

    rows = 0

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row; `step` is the row's number where none is given."""
        super().log_metrics(metrics, self.rows if step is None else step)
        self.rows += 1
