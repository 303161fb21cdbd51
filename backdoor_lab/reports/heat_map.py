"""Heat maps of attack by defense, as images for those who show images."""

from __future__ import annotations

import statistics
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from backdoor_lab.records import Record
from backdoor_lab.reports.layout import HEADS, score
from backdoor_lab.reports.page.facets import FIRST
from backdoor_lab.reports.page.settings import SEEDS, traits
from backdoor_lab.reports.style import INK

AXES = ("attack", "defense", *SEEDS)
WIDTH = 60  # letters of a line of a title
Cells = dict[tuple[str, str], list[float]]  # by attack and defense, a score of each seed


def cells_of(records: Iterable[Record], name: str = "der") -> dict[str, Cells]:
    """Scores of purifications that differ in attack, defense and seeds alone, by what they share.

    Args:
        records: of any tasks; those without the score are left out.
        name: of the score, in percent.
    """
    maps: dict[str, Cells] = defaultdict(lambda: defaultdict(list))
    for record in records:
        value = score(record, name, bare=False)
        if value is not None:
            cell = record.choices["attack"], record.choices["defense"]
            maps[shared(traits(record))][cell].append(value)
    return dict(sorted(maps.items()))


def shared(known: Mapping[str, str]) -> str:
    """What all runs of a map have in common, as it is typed: first the choices, then the values."""
    first = [name for name in FIRST if name in known]
    others = sorted(known.keys() - set(first), key=lambda name: ("." in name, name))
    names = [name for name in (*first, *others) if name not in AXES]
    return " ".join(f"{name}={known[name]}" for name in names)


def heat_map(path: Path, title: str, cells: Cells, name: str = "der") -> None:
    """Means over seeds, each with its number of runs below it, as a PNG file."""
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
    lines = [f"{HEADS[name]}, percent: mean (number of runs)", *textwrap.wrap(title, WIDTH)]
    axes.set_title("\n".join(lines), loc="left", color=INK, fontsize=9)
    figure.savefig(path, bbox_inches="tight")
