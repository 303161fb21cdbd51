"""UniBP as its paper may be read: what pruned entries become, beside its controls.

    python -m benchmarks.readings --seeds 0,1,2          # mnist, seeds that chose nothing
    python -m benchmarks.readings --seeds 100,101,102    # those that chose the default
    python -m benchmarks.readings --dataset digits --seeds 100,101,102
    python -m benchmarks.readings --data DIR             # photographs, as benchmarks.photographs

Runs the grids through the command line (finished cells are not repeated), reads their records and
writes `benchmarks/readings_<data set>.md`, where seeds that chose stand in rows of their own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from backdoor_lab.config import ROOT
from backdoor_lab.records import Record, read_record
from backdoor_lab.records.record import RESULT
from benchmarks.common import MEANS, machines, markdown, means, write_page
from benchmarks.kept import kept
from benchmarks.photographs import overrides

GRIDS = [
    ["defense=unibp,unibp_random", "defense.value=noise,reset", "aux=reserved"],
    ["defense=ft_matched", "aux=reserved"],
]
HEADS = ("attack", "defense", "settings", "seeds", *MEANS)
CHOSE = 100  # seeds from here up chose strengths and defaults


def table(records: Iterable[Record]) -> str:
    """A row a combination of attack, defense and what was set of it."""
    rows: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for one in records:
        typed = (word.removeprefix("defense.") for word in one.words if word.startswith("defense."))
        seeds = f"from {CHOSE if one.seed >= CHOSE else 0}"
        key = (one.choices["attack"], one.choices["defense"], " ".join(sorted(typed)), seeds)
        rows[key].append(one)
    return markdown(HEADS, ([*key, *means(found)] for key, found in sorted(rows.items())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="of photographs")
    parser.add_argument("--dataset", default="mnist", help="where there is no --data")
    parser.add_argument("--attacks", default="badnets,wanet,sig")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--table-only", action="store_true", help="of what is there already")
    chosen = parser.parse_args()
    name = "photographs" if chosen.data else chosen.dataset
    outputs = ROOT / "outputs" / f"readings_{name}"
    common = [f"dataset={name}", "pictures=false", "keep_model=false", f"paths.outputs={outputs}"]
    if chosen.data:
        common = overrides(chosen.data.resolve(), outputs)
    grid = [f"attack={chosen.attacks}", f"seed={chosen.seeds}", *common]
    with kept(outputs, {str(chosen.data.resolve()): "DIR"} if chosen.data else None):
        for one in () if chosen.table_only else GRIDS:
            subprocess.run([sys.executable, "run.py", "-m", *one, *grid], cwd=ROOT, check=True)
    found = [read_record(file.parent) for file in sorted((outputs / "runs").rglob(RESULT))]
    records = [one for one in found if one and one.victim and one.purified]
    attacks = ",".join(sorted({one.choices["attack"] for one in records}))
    seeds = ",".join(map(str, sorted({one.seed for one in records})))
    write_page(
        Path(__file__).with_name(f"readings_{name}.md"),
        f"{name}: readings of UniBP",
        "Mean ± standard deviation over n seeds, percent; `target` and `worst` are accuracies on "
        "clean images of the target class and of the worst class. What no setting names is as the "
        f"data set and `conf/defense` say. Seeds from {CHOSE} up chose the default.",
        f"`python -m benchmarks.readings{' --data DIR' if chosen.data else f' --dataset {name}'}` "
        f"with `--attacks {attacks} --seeds {seeds}`, on {machines(records)}",
        table(records),
    )


if __name__ == "__main__":
    main()
