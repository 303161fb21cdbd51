"""What grids cost beside their cells: checking, judging, restarting, and the ways to run them.

    python -m benchmarks.grids check --cells 10000     # no training: records are made up
    python -m benchmarks.grids run                     # 12 tiny cells by each way: the same numbers

Each adds its rows to `benchmarks/grids.md`. Seconds of the CPU stand beside those of the wall,
because they are what a machine that is shared with others leaves comparable; the pool's are not
counted, whose children belong to a server.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from shlex import join
from tempfile import TemporaryDirectory
from typing import Any

from hydra import compose, initialize_config_dir

from backdoor_lab.config import CONF, ROOT, register
from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.records import MadeFrom, Record, collect
from backdoor_lab.run.cells import Cell, combinations
from backdoor_lab.run.checking import check_all
from backdoor_lab.run.finished import asked_of, note_fingerprint
from backdoor_lab.run.grid import show
from benchmarks.common import machine, markdown

PAGE = Path(__file__).with_suffix(".md")
CHOICES = [
    "attack=none,badnets,blended,sig,lf,ssba,wanet,input_aware,bpp,lira",
    "defense=ft,clp,anp,bcu,unibp", "aux=seen,reserved", "aux.size=20,40,60,80,100",
]  # fmt: skip
QUIET = ["pictures=false", "keep_model=false"]
TINY = [
    "attack=badnets,blended", "defense=none,ft,clp", "aux=seen", "seed=0,1",
    "trainer.fast_dev_run=true", *QUIET,
]  # fmt: skip
WAYS = {
    "in process, 1 thread": ("1", ["hydra/launcher=basic"]),
    "in process, 2 threads": ("2", ["hydra/launcher=basic"]),
    "pool, a place of 1 thread a core": ("1", ["hydra/launcher=pool"]),
}


def measured(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What `work` gives, its seconds of the wall, and those of the CPU with its children's."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    given = work()
    return given, time.perf_counter() - wall, cpu_seconds() - cpu


def cpu_seconds() -> float:
    """Of this process and its children that have ended."""
    spent = os.times()
    return sum(spent[:4])


def megabytes() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def check(cells: int, outputs: Path) -> list[Sequence[object]]:
    """Rows: composing and checking fresh cells, judging them, and checking finished ones."""
    seeds = f"seed=range(0,{cells // 500})"  # the choices make 500
    grid = combinations([[*CHOICES, seeds, *QUIET, f"paths.outputs={outputs}"]])
    before = megabytes()
    fresh, *first = measured(lambda: check_all(grid))
    held = f"{before:.0f} → {megabytes():.0f}"
    finish(fresh)
    missing, *second = measured(lambda: show(fresh, "failed"))
    again, *third = measured(lambda: check_all(grid))
    assert not missing
    assert all(cell.current for cell in again)
    named = {
        "cells composed and checked": first,
        "cells judged": second,
        "finished cells checked": third,
    }
    memory = [held, "", f"{megabytes():.0f}"]
    return [
        (f"{len(grid):,} {name}", f"{wall:.1f}", f"{cpu:.1f}", mb)
        for (name, (wall, cpu)), mb in zip(named.items(), memory, strict=True)
    ]


def finish(cells: Sequence[Cell]) -> None:
    """Leave the record of each cell, as a run would."""
    cfg = compose("config", list(cells[0].overrides))
    note_fingerprint(cfg, asked_of(cfg), "data")
    for cell in cells:
        made_from, scores = MadeFrom(cell.code, "data"), Scores(0.9, 0.1)
        Record("purify", {}, 0, "", made_from, victim=scores, purified=scores).write(cell.folder)


def run(ways: Sequence[str], outputs: Path) -> list[Sequence[object]]:
    """Rows: tiny cells by each way, twice: the second time they are finished."""
    rows: list[Sequence[object]] = []
    first: dict[str, list[tuple[Scores | None, Scores | None]]] = {}
    for name in ways:
        threads, chosen = WAYS[name]
        folder = outputs / name.replace(" ", "_").replace(",", "")
        command = [sys.executable, "run.py", "-m", *chosen, *TINY, f"paths.outputs={folder}"]
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        start = partial(subprocess.run, command, cwd=ROOT, check=True, env=environment)
        for what in ("", ", finished"):
            _, wall, cpu = measured(start)
            records = collect(folder / "runs").values()
            spent = sum(record.spent.seconds["total"] for record in records)
            title = f"{len(records)} tiny cells, {name}{what}"
            rows.append((title, f"{wall:.1f}", f"{cpu:.1f}", "" if what else f"{spent:.0f} s"))
        scores = [(record.victim, record.purified) for record in records]
        known = first.setdefault(threads, scores)  # the number of threads changes last digits
        assert scores == known, f"{name} gives other numbers"
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["check", "run"])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    chosen = parser.parse_args()
    register()
    heads = [
        "",
        "wall s",
        "CPU s",
        "parent MB" if chosen.what == "check" else "in the cells, summed",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"), TemporaryDirectory() as folder:
        outputs = Path(folder)
        rows = check(chosen.cells, outputs) if chosen.what == "check" else run(chosen.ways, outputs)
    made = f"Made on {date.today()} by `python -m benchmarks.grids {join(sys.argv[1:])}`"
    load = f"load average {os.getloadavg()[1]:.1f}"
    with PAGE.open("a") as page:
        page.write(f"\n{made}, {machine()}, {load}.\n\n{markdown(heads, rows)}\n")


if __name__ == "__main__":
    main()
