"""Tables of defenses beside their controls, on the embedded data.

    python -m benchmarks.acceptance                            # controls: mnist, seeds 0 to 2
    python -m benchmarks.acceptance --dataset digits --seeds 0
    python -m benchmarks.acceptance --table defenses           # every defense, with reserved images
    python -m benchmarks.acceptance --table kinds --dataset digits --seeds 0   # with every kind
    python -m benchmarks.acceptance --table all_to_all --dataset digits --seeds 0

Runs the grids through the command line (finished cells are not repeated), reads their records and
writes `benchmarks/<table>_<dataset>.md`. Strengths were chosen on seeds from 100 up. A row is worth
a claim where it beats `ft_matched`, `ft_tuned` and the random choice beside it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from backdoor_lab.config import ROOT
from backdoor_lab.records import Record, collect, mean_sd
from benchmarks.common import MEANS, data_free, machines, markdown, means, names, write_page
from benchmarks.kept import kept

ATTACKS = "attack=badnets,wanet,sig"
DATA_FREE = f"defense={','.join(data_free())}"
WITH_DATA = f"defense={','.join(names('defense', without=['none', *data_free()]))}"
KINDS = names("aux_data", without=["folder", "none"])  # folder goes with an imported model
TABLES = {
    "controls": [
        [
            ATTACKS,
            "defense=ft_matched,ft_tuned,anp,bcu,unibp,unibp_random",
            "aux=seen,external",
        ],
        [ATTACKS, "defense=clp", "aux=none"],
    ],
    "defenses": [
        [ATTACKS, WITH_DATA, "aux=reserved"],
        [ATTACKS, DATA_FREE, "aux=none"],
    ],
    "kinds": [
        ["attack=badnets", WITH_DATA, f"aux={','.join(KINDS)}"],
        ["attack=badnets", WITH_DATA, "aux=external", "calibration=gic"],
    ],
    "all_to_all": [
        ["attack=badnets", "attack.all_to_all=true", WITH_DATA, "aux=reserved"],
        ["attack=badnets", "attack.all_to_all=true", DATA_FREE, "aux=none"],
    ],
}
APART = ["all_to_all"]  # what is set there is no choice, so that its runs would pass for others
GROUPS = ("attack", "defense", "aux", "calibration")
HEADS = (*GROUPS, *MEANS, "seconds", "MB")


def run_grids(grids: list[list[str]], outputs: Path, dataset: str, seeds: str) -> None:
    """Fill `outputs`; what is there already is kept."""
    common = [f"dataset={dataset}", f"seed={seeds}", "pictures=false", "keep_model=false"]
    for grid in grids:
        command = [sys.executable, "run.py", "-m", *grid, *common]
        subprocess.run([*command, f"paths.outputs={outputs}"], cwd=ROOT, check=True)


def table(records: Iterable[Record]) -> str:
    """Markdown: a row a combination of choices, means and deviations over seeds."""
    cells: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record.victim and record.purified:
            cells[tuple(record.choices[group] for group in GROUPS)].append(record)
    return markdown(HEADS, (row(key, found) for key, found in sorted(cells.items())))


def row(key: tuple[str, ...], found: list[Record]) -> list[object]:
    """Scores of victims and of purified models."""
    seconds = mean_sd([one.spent.seconds.get("purify") for one in found], 1)
    memory = mean_sd([one.spent.memory_mb for one in found], 1, 0)
    return [*key, *means(found), seconds, memory]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", choices=TABLES, default="controls")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--table-only", action="store_true", help="of what is there already")
    chosen = parser.parse_args()
    name = chosen.table if chosen.table in APART else "acceptance"
    outputs = ROOT / "outputs" / f"{name}_{chosen.dataset}"
    grids = TABLES[chosen.table]
    with kept(outputs):
        if not chosen.table_only:
            run_grids(grids, outputs, chosen.dataset, chosen.seeds)
    found = [
        record for record in collect(outputs).values() if belongs(record, TABLES[chosen.table])
    ]
    write_page(
        Path(__file__).with_name(f"{chosen.table}_{chosen.dataset}.md"),
        f"{chosen.dataset}: defenses and their controls",
        "Mean ± standard deviation over n seeds, percent; `target` and `worst` are the accuracy on "
        "clean images of the target class and of the worst class: an ASR that fell because a class "
        "was forgotten is no purification. Seconds are the defense's own; MB is the resident "
        "memory of the whole process at most meanwhile, with what earlier cells left in it.",
        f"`python -m benchmarks.acceptance --table {chosen.table} --dataset {chosen.dataset} "
        f"--seeds {chosen.seeds}`, on {machines(found)}",
        table(found),
    )


def belongs(record: Record, grids: list[list[str]]) -> bool:
    """Whether one of the grids makes a record."""
    for grid in grids:
        typed = dict(choice.split("=") for choice in grid)
        asked = {group: typed.get(group, "none").split(",") for group in GROUPS}
        if all(record.choices[group] in asked[group] for group in GROUPS):
            return True
    return False


if __name__ == "__main__":
    main()
