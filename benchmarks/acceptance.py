"""The acceptance table on the embedded digits: means and deviations over seeds 0 to 2.

    python -m benchmarks.acceptance

Runs the grids through the command line (finished cells are not repeated), reads their records and
writes `benchmarks/acceptance.md`.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from backdoor_lab.config import ROOT
from backdoor_lab.records import Record, collect, mean_sd
from benchmarks.common import machine, markdown

OUTPUTS = ROOT / "outputs" / "acceptance"
GRIDS = [
    ["attack=badnets,blended,sig,wanet", "defense=unibp,bcu", "aux=seen"],
    ["attack=badnets,wanet", "defense=ft", "aux=external", "calibration=none,gic"],
    ["attack=badnets,wanet", "defense=ft,clp,anp,unibp", "aux=seen,external"],
]
GROUPS = ("attack", "defense", "aux", "calibration")
HEADS = (*GROUPS, "n", "victim ACC", "ASR", "purified ACC", "ASR", "DER")


def run_grids() -> None:
    """Fill `OUTPUTS`; what is there already is kept."""
    for grid in GRIDS:
        common = ["seed=0,1,2", "pictures=false", f"paths.outputs={OUTPUTS}"]
        subprocess.run([sys.executable, "run.py", "-m", *grid, *common], cwd=ROOT, check=True)


def table(records: Iterable[Record]) -> str:
    """Markdown: a row a combination of choices."""
    cells: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        cells[tuple(record.choices[group] for group in GROUPS)].append(record)
    rows = []
    for key, found in sorted(cells.items()):
        victims = [record.victim for record in found if record.victim]
        purified = [record.purified for record in found if record.purified]
        scores: list[list[float | None]] = [
            [one.acc for one in victims],
            [one.asr for one in victims],
            [one.acc for one in purified],
            [one.asr for one in purified],
            [one.der for one in purified],
        ]
        rows.append([*key, len(found), *(mean_sd(values) for values in scores)])
    return markdown(HEADS, rows)


def main() -> None:
    run_grids()
    head = "# Embedded digits, seeds 0 to 2: mean ± standard deviation, percent\n\n"
    made = f"Made by `python -m benchmarks.acceptance` on {machine()}.\n\n"
    text = head + made + table(collect(OUTPUTS).values()) + "\n"
    Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
