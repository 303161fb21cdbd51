"""Tracking in plain files: `csv/metrics.csv` a row an epoch; at the end, `csv/summary.csv` one row.

A run that was killed or stopped has no summary: its rows stay, and the next try adds to them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

from backdoor_lab.tracking._base import Ending, RunInfo, Tracker, flat


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
        rows, summary = self._folder / "metrics.csv", self._folder / "summary.csv"
        goes_on = rows.exists() and not summary.exists()
        earlier = list(csv.DictReader(rows.read_text().splitlines())) if goes_on else []
        for file in (rows, summary):
            file.unlink(missing_ok=True)
        self._summary = {
            "name": info.name,
            "group": info.group,
            "job_type": info.job_type,
            "tags": " ".join(info.tags),
        }
        self._logger = _RowLogger(info.folder, earlier)

    def _close(self, ending: Ending) -> None:
        self._logger = None  # each row was written as it came
        if ending is Ending.STOPPED:
            return
        row = {**self._summary, "exit_code": ending.exit_code}
        with (self._folder / "summary.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row)


class _RowLogger(CSVLogger):
    """Counts rows over all trainings of a run; Lightning's own count restarts at each flush.

    Args:
        folder: of the run.
        earlier: rows of a try before, which Lightning's writer would take away.
    """

    def __init__(self, folder: Path, earlier: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(folder, name="csv", version="", flush_logs_every_n_steps=1)
        self.rows = len(earlier)
        self.experiment.metrics.extend(map(dict, earlier))
        self.save()

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row; `step` is the row's number where none is given."""
        super().log_metrics(metrics, self.rows if step is None else step)
        self.rows += 1
