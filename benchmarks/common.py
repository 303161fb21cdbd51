"""What the benchmarks share: attacks by name, results, means with their spread, tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from backdoor_lab.configuration import CONF, versions

CELL = ("dataset", "model", "attack", "defense", "aux", "calibration", "seed")


def attack_names() -> list[str]:
    """Every attack, clean training first: others start from its model."""
    names = sorted(file.stem for file in (CONF / "attack").glob("*.yaml"))
    return sorted(names, key=lambda name: name != "none")


def newest_results(folder: Path) -> dict[Path, dict[str, Any]]:
    """Results below `folder` by file, the newest of each cell.

    Cells are told apart by what a benchmark's table names, so that a run with other values (or
    another protocol) takes the place of the earlier one.
    """
    cells: dict[tuple[Any, ...], Path] = {}
    results: dict[Path, dict[str, Any]] = {}
    for file in sorted(folder.rglob("result.json"), key=lambda file: file.stat().st_mtime):
        results[file] = json.loads(file.read_text())
        cells[tuple(results[file].get(name) for name in CELL)] = file
    return {file: results[file] for file in sorted(cells.values())}


def spread(values: Sequence[float | None], factor: float = 100, digits: int = 1) -> str:
    """Mean and standard deviation, in percent by default; a dash where nothing is defined."""
    known = [factor * value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.{digits}f}"
    return mean if len(known) < 2 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def machine() -> str:
    """Its kind, and the versions that were run."""
    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"{platform.machine()} CPU, {os.cpu_count()} cores; {packages}"
