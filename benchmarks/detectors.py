"""What detectors tell of narrow victims and of clean models: ROC, errors, seconds.

    python -m benchmarks.detectors                     # mnist: 20 victims, 20 + 20 clean models
    python -m benchmarks.detectors --table-only
    python -m benchmarks.detectors --name trial --attacks badnets --victims 2 --clean 2 \
        --calibration 2 -- recipe.epochs=3 ++values_for.neural_cleanse.passes=5

Victims have the seeds 0 up, clean models those from 10, and the models that calibrate those from
100. Runs `task=inspect` through the command line; what is finished is not repeated, so that it may
be stopped and started again. Writes `benchmarks/detectors_<name>.md`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from backdoor_lab.config import ROOT
from backdoor_lab.records import Evidence, Record, collect
from benchmarks.common import machine, markdown

ATTACKS = ("badnets", "blended", "wanet", "sig", "input_aware", "trojan")
CLEAN, CALIBRATION = 10, 100  # first seeds
TARGET = "0"  # of every attack's yaml
LEVEL = 0.05
DRAWS = 2000
HEADS = (
    "detector", "attack", "n", "AUC", "95 %", "over the calibrated threshold", "paper's rule",
    "house rule", "target is foremost", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Sets:
    """Evidence of one detector, by attack, of clean models, and of those that calibrate."""

    victims: dict[str, list[Evidence]]
    clean: list[Evidence]
    calibration: list[Evidence]


def dealt(attacks: Sequence[str], victims: int) -> dict[str, int]:
    """How many victims each attack gives; the first ones give the rest."""
    each, rest = divmod(victims, len(attacks))
    return {name: each + (number < rest) for number, name in enumerate(attacks)}


def run_grids(counts: dict[str, int], clean: int, calibration: int, options: list[str]) -> None:
    """Fill the folder; what is there already is kept."""
    grids = [(name, seeds(0, count)) for name, count in counts.items()]
    grids += [("none", seeds(CLEAN, clean)), ("none", seeds(CALIBRATION, calibration))]
    for attack, several in grids:
        command = [sys.executable, "run.py", "-m", "task=inspect", f"attack={attack}"]
        subprocess.run([*command, f"seed={several}", *options], cwd=ROOT, check=True)


def seeds(first: int, count: int) -> str:
    return ",".join(map(str, range(first, first + count)))


def by_detector(records: Sequence[Record]) -> dict[str, Sets]:
    """The evidence that has a scalar."""
    found: dict[str, Sets] = defaultdict(lambda: Sets(defaultdict(list), [], []))
    for record in records:
        held = record.inspection.evidence.get("victim", {}) if record.inspection else {}
        attack = record.choices["attack"]
        for name, one in held.items():
            if one.scalar is None:
                continue
            if attack != "none":
                found[name].victims[attack].append(one)
            elif record.seed >= CALIBRATION:
                found[name].calibration.append(one)
            else:
                found[name].clean.append(one)
    return dict(sorted(found.items()))


def scalars(found: Sequence[Evidence]) -> NDArray[np.float64]:
    return np.array([one.scalar for one in found], np.float64)


def threshold(calibration: Sequence[Evidence]) -> float:
    """What a clean model exceeds in 5% of all cases, by the rank among those that calibrate.

    Fewer than 19 of them cannot tell so much: then it is their largest, and errs more often.
    """
    ordered = np.sort(scalars(calibration))
    rank = int(np.ceil((1 - LEVEL) * (len(ordered) + 1)))
    return float(ordered[min(rank, len(ordered)) - 1])


def auc(victims: NDArray[np.float64], clean: NDArray[np.float64]) -> tuple[float, float, float]:
    """Area under the ROC curve, and its 95% interval over models drawn with replacement."""
    draw = np.random.default_rng(0)

    def area(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
        labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
        return float(roc_auc_score(labels, np.r_[positive, negative]))

    again = [area(draw.choice(victims, len(victims)), draw.choice(clean, len(clean)))
             for _ in range(DRAWS)]  # fmt: skip
    low, high = np.quantile(again, [0.025, 0.975])
    return area(victims, clean), float(low), float(high)


def share(hits: Sequence[bool]) -> str:
    return f"{sum(hits)} of {len(hits)}"


def row(name: str, attack: str, found: Sequence[Evidence], sets: Sets, limit: float) -> list[str]:
    """Of victims beside the clean models; of these themselves without AUC and target."""
    areas = ["", ""]
    foremost = ""
    if found is not sets.clean:
        area, low, high = auc(scalars(found), scalars(sets.clean))
        areas = [f"{area:.2f}", f"{low:.2f} to {high:.2f}"]
        foremost = share([one.foremost == TARGET for one in found])
    return [
        name,
        attack,
        str(len(found)),
        *areas,
        share([(one.scalar or 0) > limit for one in found]),
        share([bool(one.reference and one.reference.flagged) for one in found]),
        share([bool(one.calibrated and one.calibrated.flagged) for one in found]),
        foremost,
        f"{np.median([one.seconds for one in found]):.0f}",
    ]


def rows(sets: dict[str, Sets]) -> list[list[str]]:
    """Each attack, all of them together, then clean models, of each detector."""
    table = []
    for name, one in sets.items():
        if not (one.victims and one.clean and one.calibration):
            continue
        limit = threshold(one.calibration)
        parts = {**one.victims, "all": [e for held in one.victims.values() for e in held]}
        for attack, found in parts.items():
            table.append(row(name, attack, found, one, limit))
        table.append(row(name, f"clean (threshold {limit:.3g})", one.clean, one, limit))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="mnist", help="of the table")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    parser.add_argument("--victims", type=int, default=20, help="over all attacks")
    parser.add_argument("--clean", type=int, default=20)
    parser.add_argument("--calibration", type=int, default=20)
    parser.add_argument("--table-only", action="store_true", help="of what is there already")
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_args()
    outputs = ROOT / "outputs" / f"detectors_{chosen.name}"
    options = [f"dataset={chosen.dataset}", f"paths.outputs={outputs}", "pictures=false"]
    counts = dealt(chosen.attacks, chosen.victims)
    if not chosen.table_only:
        run_grids(counts, chosen.clean, chosen.calibration, [*options, *chosen.overrides])
    records = [one for one in collect(outputs).values() if one.task == "inspect"]
    command = " ".join(["python -m benchmarks.detectors", *sys.argv[1:]])
    text = [
        f"# {chosen.name}: what detectors tell of victims and of clean models",
        "AUC of each detector's scalar, victims against clean models of other seeds, with the 95 % "
        "interval over models drawn with replacement. The calibrated threshold is what the clean "
        "models that calibrate, of further seeds, exceed in 5 % of all cases. The paper's rule and "
        "the house rule (`conf/detector`) stand beside it: on clean models each sign is a false "
        "alarm. `target is foremost`: the class that stands out most is the attacker's. Seconds "
        "are medians.",
        f"Made on {date.today()} by `{command}`, {machine()}.",
        markdown(HEADS, rows(by_detector(records))),
    ]
    file = Path(__file__).with_name(f"detectors_{chosen.name}.md")
    file.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
