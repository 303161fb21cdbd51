"""The acceptance table on the embedded digits: means and deviations over seeds 0 to 2.

    python -m benchmarks.acceptance

Runs the grids through the command line (finished cells are not repeated), reads their results and
writes `benchmarks/acceptance.md`.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from backdoor_lab.configuration import ROOT
from benchmarks.common import machine, markdown, newest_results, spread

OUTPUTS = ROOT / "outputs" / "acceptance"
GRIDS = [
    ["attack=badnets,blended,sig,wanet", "defense=unibp,bcu", "aux=seen"],
    ["attack=badnets,wanet", "defense=ft", "aux=external", "calibration=none,gic"],
    ["attack=badnets,wanet", "defense=ft,clp,anp,unibp", "aux=seen,external"],
]
Key = tuple[str, str, str, str]


def run_grids() -> None:
    """Fill `OUTPUTS`; what is there already is kept."""
    for grid in GRIDS:
        common = ["seed=0,1,2", "pictures=false", f"paths.outputs={OUTPUTS}"]
        subprocess.run([sys.executable, "run.py", "-m", *grid, *common], cwd=ROOT, check=True)


def collect() -> dict[Key, list[dict[str, Any]]]:
    """Results by attack, defense, auxiliary kind and calibration."""
    found: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for result in newest_results(OUTPUTS).values():
        key = (result["attack"], result["defense"], result["aux"], result["calibration"])
        found[key].append(result)
    return dict(sorted(found.items()))


def table(found: dict[Key, list[dict[str, Any]]]) -> str:
    """Markdown: a row a combination."""
    names = ("attack", "defense", "aux", "calibration", "n")
    heads = (*names, "victim ACC", "ASR", "purified ACC", "ASR", "DER")
    rows = []
    for key, results in found.items():
        scores = [
            spread([result[model][name] for result in results])
            for model, name in [
                *(("victim", "acc"), ("victim", "asr")),
                *(("purified", "acc"), ("purified", "asr"), ("purified", "der")),
            ]
        ]
        rows.append([*key, len(results), *scores])
    return markdown(heads, rows)


def main() -> None:
    run_grids()
    head = "# Embedded digits, seeds 0 to 2: mean ± standard deviation, percent\n\n"
    made = f"Made by `python -m benchmarks.acceptance` on {machine()}.\n\n"
    Path(__file__).with_suffix(".md").write_text(head + made + table(collect()) + "\n")


if __name__ == "__main__":
    main()
