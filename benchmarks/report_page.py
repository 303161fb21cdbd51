"""What the page of 5,000 runs weighs, and how soon a browser shows it.

    python -m benchmarks.report_page        # writes benchmarks/report_page.md

Records are made up. Each figure is the median of browsers that were started afresh: a headless
Chromium without a GPU, which reads the page from disk. Seconds of the CPU, of the page's own
thread, stand beside those of the wall, because they are what a machine that is shared with others
leaves comparable.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backdoor_lab.evaluation.scores import Scores, defense_effectiveness
from backdoor_lab.records import MadeFrom, Record, Spent
from backdoor_lab.tasks.report import Report
from benchmarks.browser import READY, TABLES, chromium, look_like, scroll_down, wait_until, why_not
from benchmarks.common import attack_names, machine, markdown, names

PAGE = Path(__file__).with_suffix(".md")
WIDTHS = (1400, 390)  # pixels
TICK = "document.querySelector('fieldset input').click()"
Seconds = tuple[float, float | None]


def leave(outputs: Path, count: int) -> None:
    """Records of `count` runs: attacks, defenses, data and seeds."""
    draw = random.Random(0)
    aux = ("seen", "reserved", "external")
    cells = itertools.product(range(10), attack_names(), names("defense"), aux)
    for seed, attack, defense, kind in itertools.islice(cells, count):
        victim = Scores(draw.gauss(0.92, 0.01), draw.uniform(0.9, 1), 0.05, None, None, 0.9, 0.8)
        acc, asr, ra, target, worst = (draw.uniform(low, 1) for low in (0.8, 0, 0.3, 0.7, 0.6))
        der = defense_effectiveness(victim, Scores(acc, asr))
        chosen = {"attack": attack, "defense": defense, "aux": kind}
        words = [f"{key}={name}" for key, name in chosen.items()]
        Record(
            "purify",
            {"dataset": "cifar10", "model": "preact_resnet18", **chosen, "protocol": "bb"},
            seed,
            " ".join(["python", "run.py", *words, f"seed={seed}"]),
            MadeFrom("code", "data"),
            chain=(defense,),
            victim=victim,
            purified=Scores(acc, asr, ra, None, der, target, worst),
            spent=Spent({"purify": draw.lognormvariate(4, 1)}, draw.uniform(300, 3000)),
        ).write(outputs / "runs" / "cifar10" / attack / f"{defense}-{kind}" / f"seed{seed}")


def megabytes(files: Iterable[Path]) -> float:
    """Of all these files."""
    return sum(file.stat().st_size for file in files) / 1e6


def spent(driver: Any, act: Callable[[], object]) -> Seconds:
    """Seconds of the wall and of the page's thread that something takes."""
    before, started = thread_seconds(driver), time.perf_counter()
    act()
    wall = time.perf_counter() - started
    return wall, thread_seconds(driver) - before


def thread_seconds(driver: Any) -> float:
    """Seconds that the page's thread has worked."""
    told = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(one["value"] for one in told if one["name"] == "ThreadTime")


def opened(index: Path, width: int) -> dict[str, Seconds]:
    """Seconds that a browser takes, by what it does."""
    with chromium() as driver:
        look_like(driver, width)
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

        def opens() -> None:
            driver.get(index.as_uri())
            wait_until(driver, READY)

        def ticks() -> None:
            driver.execute_script(TICK)
            wait_until(driver, READY)

        def scrolls() -> None:
            scroll_down(driver)

        whole = spent(driver, opens)
        return {
            "opened: all tables and filters": (driver.execute_script(TABLES), None),
            "the same, with Plotly and the arrows": whole,
            "a filter, the same": spent(driver, ticks),
            "scrolled down through the other figures": spent(driver, scrolls),
        }


def median(values: Sequence[float | None]) -> str:
    """Of seconds; nothing where they are not known."""
    known = [one for one in values if one is not None]
    return f"{statistics.median(known):.2f} s" if known else ""


def rows_of(index: Path, width: int, times: int) -> list[Sequence[str]]:
    """Rows of the table for screens of one width."""
    found = [opened(index, width) for _ in range(times)]
    return [
        (
            f"{name}, {width} pixels wide",
            *(median([one[name][kind] for one in found]) for kind in (0, 1)),
        )
        for name in found[0]
    ]


def measure(count: int, times: int, outputs: Path) -> list[Sequence[str]]:
    """All rows."""
    leave(outputs, count)
    started = time.perf_counter(), time.process_time()
    Report().look(outputs)
    written = time.perf_counter() - started[0], time.process_time() - started[1]
    index = outputs / "reports" / "index.html"
    runs = megabytes((index.parent / "runs").rglob("*.html"))
    rows: list[Sequence[str]] = [
        ("task=report, once loaded", *(f"{value:.1f} s" for value in written)),
        (
            "the page and all that it loads",
            f"{megabytes([index, *(index.parent / 'page').iterdir()]):.1f} MB",
            "",
        ),
        ("the pages of the runs", f"{runs:.1f} MB", ""),
    ]
    return rows + [row for width in WIDTHS for row in rows_of(index, width, times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--times", type=int, default=5)
    asked = parser.parse_args()
    if lacking := why_not():
        raise SystemExit(f"benchmarks.report_page {lacking}")
    with TemporaryDirectory() as folder:
        rows = measure(asked.runs, asked.times, Path(folder))
    command = f"python -m benchmarks.report_page --runs {asked.runs} --times {asked.times}"
    load = f"load average {os.getloadavg()[0]:.1f}"
    made = f"Made on {date.today()} by `{command}`, {machine()}, {load}."
    table = markdown([f"{asked.runs:,} runs", "wall", "CPU"], rows)
    about = " ".join((__doc__ or "").split("\n\n")[2].split())
    PAGE.write_text(f"# The page of {asked.runs:,} runs\n\n{about}\n\n{made}\n\n{table}\n")


if __name__ == "__main__":
    main()
