"""One grid by every launcher: nothing lost, nothing done twice, the same numbers; wall seconds.

    python -m benchmarks.launchers --outputs /tmp/launchers           # every way that is installed
    python -m benchmarks.launchers --outputs /tmp/launchers --cells 6 --victims 2 --epochs 1

Each way fills a folder of its own below `--outputs`, which must be empty. Cells beside the first
of a victim differ in the defender's seed; every victim has as many, so that `--cells` is rounded
up. SLURM is the small one of `tests/slurm/cluster.sh`, which wants root and Debian's packages.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psutil

from backdoor_lab.config import ROOT
from backdoor_lab.device import chosen_device, resolved_precision
from backdoor_lab.records import Record, collect
from benchmarks.common import machine, markdown
from benchmarks.ways import Way, cluster, timed, ways

HEADS = (
    "way", "wall s", "again s", "killed", "cells", "victims", "twice", "same numbers",
    "over the cells",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a way took, and left."""

    way: Way
    folder: Path
    wall: float
    again: float
    killed: int

    def records(self) -> list[Record]:
        return list(collect(self.folder / "runs").values())

    def scores(self) -> dict[object, object]:
        """What must be the same by every way."""
        return {(one.seed, one.defender_seed): (one.victim, one.purified) for one in self.records()}

    def twice(self) -> int:
        """Cells that came to their end more than once, as their children told."""
        logs = (self.folder / "grids").glob("*/*.log")
        return sum(file.read_text().count("Result: ") > 1 for file in logs)

    def row(self, reference: dict[object, object]) -> list[object]:
        cells = self.records()
        busy = sum(one.spent.seconds["total"] for one in cells)
        made = sum(not one.spent.victim_cached for one in cells)
        kept = len(list((self.folder / "victims").rglob("model.safetensors")))
        same = "yes" if self.scores() == reference else "NO"
        over = f"{self.wall * self.way.at_once / busy - 1:.0%}" if busy else "–"
        numbers = (
            f"{self.wall:.0f}",
            f"{self.again:.1f}",
            self.killed,
            len(cells),
            f"{made} made, {kept} kept",
        )
        return [self.way.name, *numbers, self.twice(), same, over]


def grid(chosen: argparse.Namespace) -> list[str]:
    """What is the same for all ways."""
    beside = -(-chosen.cells // chosen.victims)
    return [
        "attack=badnets", "defense=ft", "aux.size=100", "defense.epochs=1", "trainer=cpu",
        f"seed=range(0,{chosen.victims})", f"defender_seed=range(0,{beside})",
        f"recipe.epochs={chosen.epochs}", "pictures=false", "keep_model=false",
        f"trainer.precision={resolved_precision(chosen_device('cpu', None))}", *chosen.overrides,
    ]  # fmt: skip


def run(way: Way, arguments: Sequence[str], folder: Path) -> Outcome:
    """The grid, and the same command once more when it is finished."""
    places = [f"paths.outputs={folder}", f"paths.cache={folder}/cache"]
    command = [sys.executable, "run.py", "-m", *way.arguments, *arguments, *places]
    with cluster(folder / "cluster", way) as environment:
        wall, killed = timed(command, environment, way.kills)
        again, _ = timed(command, environment, 0)
    return Outcome(way, folder, wall, again, killed)


def report(outcomes: list[Outcome], absent: list[str], grid: list[str]) -> str:
    """The table, and what it was made with."""
    reference = outcomes[0].scores()
    return "\n\n".join(
        [
            f"# One grid by every launcher\n\n{date.today()}; {machine()}; one thread a cell.",
            f"`{' '.join(grid)}`",
            markdown(HEADS, [outcome.row(reference) for outcome in outcomes]),
            "`twice`: cells that came to their end more than once. `over the cells`: wall seconds "
            "times the cells at once, beside the seconds that the cells count themselves: start-up "
            "of Python, waiting, idle ends. `again`: the finished grid's command.",
            *absent,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outputs", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=60)
    parser.add_argument("--victims", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--ways", nargs="*", help="names; all by default")
    parser.add_argument("--report", type=Path, default=ROOT / "benchmarks" / "launchers.md")
    parser.add_argument("overrides", nargs="*", help="of every cell, after --")
    chosen = parser.parse_args()
    cores = len(psutil.Process().cpu_affinity() or [0])
    asked = [way for way in ways(cores) if not chosen.ways or way.name in chosen.ways]
    absent = [f"Not run: {way.name}, which needs {need}." for way in asked if (need := way.lacks())]
    outcomes = [
        run(
            way,
            grid(chosen),
            chosen.outputs.resolve() / way.name.replace(", ", "_").replace(" ", "_"),
        )
        for way in asked
        if way.lacks() is None
    ]
    chosen.report.write_text(report(outcomes, absent, grid(chosen)) + "\n")


if __name__ == "__main__":
    main()
