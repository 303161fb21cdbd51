"""What the page of 5,000 runs weighs, and how soon a browser shows it.

    python -m benchmarks.report_page

Records are made up; the browser is a headless Chromium, which reads the page from disk and has
no GPU. The figures go to `benchmarks/report_page.md`.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backdoor_lab.evaluation.scores import Scores, defense_effectiveness
from backdoor_lab.records import MadeFrom, Record, Spent
from backdoor_lab.tasks.report import Report
from benchmarks.browser import READY, chromium, look_like, wait_until, why_not
from benchmarks.common import attack_names, machine, markdown, names

PAGE = Path(__file__).with_suffix(".md")
SECTIONS = ("means", "heat", "sweeps", "costs", "parallel", "runs", "troubles")


def leave(outputs: Path, count: int) -> None:
    """Records of `count` runs: attacks, defenses, data and seeds."""
    draw = random.Random(0)
    aux = ("seen", "reserved", "external")
    cells = itertools.product(range(10), attack_names(), names("defense"), aux)
    for seed, attack, defense, kind in itertools.islice(cells, count):
        victim = Scores(draw.gauss(0.92, 0.01), draw.uniform(0.9, 1), 0.05, None, None, 0.9, 0.8)
        after = [draw.uniform(low, 1) for low in (0.8, 0.0, 0.3, 0.7, 0.6)]
        purified = Scores(after[0], after[1], after[2], None, None, after[3], after[4])
        der = defense_effectiveness(victim, purified)
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
            purified=Scores(*after[:3], None, der, *after[3:]),
            spent=Spent({"purify": draw.lognormvariate(4, 1)}, draw.uniform(300, 3000)),
        ).write(outputs / "runs" / "cifar10" / attack / f"{defense}-{kind}" / f"seed{seed}")


def megabytes(index: Path) -> float:
    """Of the page and of all that it loads."""
    files = [index, *(index.parent / "page").iterdir()]
    return sum(file.stat().st_size for file in files) / 1e6


def loaded(driver: Any, index: Path) -> float:
    """Seconds from the address to the first figure and its table."""
    started = time.perf_counter()
    driver.get(index.as_uri())
    wait_until(driver, READY)
    return time.perf_counter() - started


def filtered(driver: Any) -> float:
    """Seconds that a tick of a filter takes."""
    script = """
    const box = document.querySelector("fieldset input"), started = performance.now();
    box.click();
    document.body.offsetHeight;
    return (performance.now() - started) / 1000;
    """
    return float(driver.execute_script(script))


def drawn(driver: Any) -> float:
    """Seconds that all sections take that were not seen before."""
    started = time.perf_counter()
    for section in SECTIONS:
        driver.execute_script("document.getElementById(arguments[0]).scrollIntoView()", section)
        wait_until(driver, "return !stale.has(arguments[0])", section)
    return time.perf_counter() - started


def spread(values: list[float]) -> str:
    """The median and the largest."""
    return f"{statistics.median(values):.2f}, at most {max(values):.2f}"


def measure(count: int, times: int, outputs: Path) -> list[tuple[str, str]]:
    """Rows of the table."""
    leave(outputs, count)
    started = time.perf_counter()
    Report().look(outputs)
    written, index = time.perf_counter() - started, outputs / "reports" / "index.html"
    rows = [
        ("written, s", f"{written:.1f}"),
        ("page and all it loads, MB", f"{megabytes(index):.1f}"),
    ]
    with chromium() as driver:
        for name, width in {"1400 pixels": 1400, "390 pixels": 390}.items():
            look_like(driver, width)
            rows.append(
                (f"open, {name} wide, s", spread([loaded(driver, index) for _ in range(times)]))
            )
            rows.append((f"the sections below, {name} wide, s", f"{drawn(driver):.2f}"))
            rows.append((f"a tick of a filter, {name} wide, s", f"{filtered(driver):.2f}"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--times", type=int, default=7)
    asked = parser.parse_args()
    if lacking := why_not():
        raise SystemExit(f"benchmarks.report_page {lacking}")
    with TemporaryDirectory() as folder:
        rows = measure(asked.runs, asked.times, Path(folder))
    command = f"python -m benchmarks.report_page --runs {asked.runs} --times {asked.times}"
    made = f"Made on {date.today()} by `{command}`, {machine()}."
    table = markdown(["", f"{asked.runs:,} runs"], rows)
    PAGE.write_text(
        f"# The page of {asked.runs:,} runs\n\n{__doc__.splitlines()[0]}\n\n{made}\n\n{table}\n"
    )


if __name__ == "__main__":
    main()
