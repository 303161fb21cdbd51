"""A heat map of attack by defense, as an image for those who show images."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from backdoor_lab.records import Record
from backdoor_lab.reports.layout import HEADS, score
from backdoor_lab.reports.style import INK


def heat_map(path: Path, records: Iterable[Record], name: str = "der") -> None:
    """Means over seeds, auxiliary kinds and settings, each with its number of runs below it.

    Args:
        path: of the PNG file to write.
        records: purifications; others are left out.
        name: a score, in percent.
    """
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record in records:
        value = score(record, name, bare=False)
        if value is not None:
            cells[record.choices["attack"], record.choices["defense"]].append(value)
    attacks, defenses = (sorted({key[axis] for key in cells}) for axis in (0, 1))
    grid = np.full((len(attacks), len(defenses)), np.nan)
    figure = Figure(figsize=(2 + 0.9 * len(defenses), 1.5 + 0.6 * len(attacks)), dpi=120)
    axes = figure.subplots()
    for (attack, defense), values in cells.items():
        row, column = attacks.index(attack), defenses.index(defense)
        grid[row, column] = statistics.mean(values)
        text = f"{grid[row, column]:.0f}\n({len(values)})"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="#ffffff",
                  bbox={"color": "#00000080", "pad": 1.5})  # fmt: skip
    axes.imshow(grid, vmin=0, vmax=100, cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(defenses)), defenses, rotation=45, ha="right")
    axes.set_yticks(range(len(attacks)), attacks)
    axes.set_title(f"{HEADS[name]}, percent: mean (number of runs)", loc="left", color=INK)
    figure.savefig(path, bbox_inches="tight")
