"""Records below a folder, and means over their seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from backdoor_lab.records.record import RESULT, Record, read_record

CELL = ("dataset", "model", "attack", "defense", "aux", "calibration", "detector")


def collect(folder: Path) -> dict[Path, Record]:
    """Results below `folder` by the folders they lie in, the newest of each cell.

    Cells are told apart by their choices, the file of an imported victim and their seeds, so that
    a run with other values (or another protocol) takes the place of the earlier one.
    """
    cells: dict[tuple[object, ...], Path] = {}
    records: dict[Path, Record] = {}
    for path in with_result(folder):
        record = read_record(path)
        if record is not None:
            records[path] = record
            names = [record.choices.get(group) for group in CELL]
            brought = (record.details.get("victim") or {}).get("file")
            cells[record.task, *names, brought, record.seed, record.defender_seed] = path
    return {path: records[path] for path in sorted(cells.values())}


def with_result(folder: Path) -> list[Path]:
    """The folders at or below `folder` that hold a result, the newest last."""
    files = sorted(folder.rglob(RESULT), key=lambda file: file.stat().st_mtime)
    return [file.parent for file in files]


def mean_sd(values: Sequence[float | None], factor: float = 100, digits: int = 1) -> str:
    """Mean and standard deviation, in percent by default; a dash where nothing is defined."""
    known = [factor * value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.{digits}f}"
    return mean if len(known) < 2 else f"{mean} ± {statistics.stdev(known):.{digits}f}"
