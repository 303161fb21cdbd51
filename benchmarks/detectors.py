"""What detectors tell of narrow victims and of clean models: ROC, errors, seconds.

    python -m benchmarks.detectors                     # mnist: 20 victims, 20 clean models
    python -m benchmarks.detectors --table-only
    python -m benchmarks.detectors --name trial --attacks badnets --victims 2 --clean 2 \
        -- recipe.epochs=3 ++values_for.neural_cleanse.passes=5

Victims have the seeds 0 up, clean models those from 10. Runs `task=inspect` through the command
line; what is finished is not repeated, so that it may be stopped and started again, also twice at
once. Writes `benchmarks/detectors_<name>.md`.
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
from benchmarks.kept import kept

ATTACKS = ("badnets", "blended", "wanet", "sig", "input_aware", "trojan")
CLEAN = 10  # first seed
TARGET = "0"  # of every attack's yaml
DRAWS = 2000
HEADS = (
    "detector", "attack", "n", "ASR", "AUC", "95 %", "set on clean models", "paper's rule",
    "house rule", "target is foremost", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What a detector told of a model, and the ASR of a victim."""

    evidence: Evidence
    asr: float | None

    @property
    def scalar(self) -> float:
        """By which the detector ranks models."""
        assert self.evidence.scalar is not None  # others are left out
        return self.evidence.scalar


@dataclass(frozen=True)
class Sets:
    """What one detector told of victims, by attack, and of clean models."""

    victims: dict[str, list[Found]]
    clean: list[Found]


def dealt(attacks: Sequence[str], victims: int) -> dict[str, int]:
    """How many victims each attack gives; the first ones give the rest."""
    each, rest = divmod(victims, len(attacks))
    return {name: each + (number < rest) for number, name in enumerate(attacks)}


def run_grids(counts: dict[str, int], clean: int, options: list[str]) -> None:
    """Fill the folder; what is there already is kept."""
    grids = [(name, seeds(0, count)) for name, count in counts.items()]
    for attack, several in [*grids, ("none", seeds(CLEAN, clean))]:
        command = [sys.executable, "run.py", "-m", "task=inspect", f"attack={attack}"]
        subprocess.run([*command, f"seed={several}", *options], cwd=ROOT, check=True)


def seeds(first: int, count: int) -> str:
    return ",".join(map(str, range(first, first + count)))


def by_detector(records: Sequence[Record]) -> dict[str, Sets]:
    """The evidence that has a scalar."""
    found: dict[str, Sets] = defaultdict(lambda: Sets(defaultdict(list), []))
    for record in records:
        held = record.inspection.evidence.get("victim", {}) if record.inspection else {}
        attack, asr = record.choices["attack"], record.victim.asr if record.victim else None
        for name, one in held.items():
            if one.scalar is not None:
                sets = found[name]
                into = sets.clean if attack == "none" else sets.victims[attack]
                into.append(Found(one, asr))
    return dict(sorted(found.items()))


def scalars(found: Sequence[Found]) -> NDArray[np.float64]:
    return np.array([one.scalar for one in found], np.float64)


def thresholds(clean: Sequence[Found]) -> tuple[float, float]:
    """What no model of one half of the clean ones exceeds, and none of the other half."""
    return max(scalars(clean[::2])), max(scalars(clean[1::2]))


def beyond(found: Sequence[Found], sets: Sets) -> str:
    """How many exceed a threshold set on clean models: on either half of them.

    A clean model is judged by the half that it is not in, so that these are honest false alarms.
    """
    first, second = thresholds(sets.clean)
    if found is sets.clean:
        limits = [first if number % 2 else second for number in range(len(found))]
        return share([one.scalar > limit for one, limit in zip(found, limits, strict=True)])
    fewest, most = sorted(sum(one.scalar > limit for one in found) for limit in (first, second))
    several = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"{several} of {len(found)}"


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


def row(name: str, attack: str, found: Sequence[Found], sets: Sets) -> list[str]:
    """Of victims beside the clean models; of these themselves without ASR, AUC and target."""
    rules = [
        share([bool(one and one.flagged) for one in several]) if any(several) else "–"
        for several in (
            [one.evidence.reference for one in found],
            [one.evidence.calibrated for one in found],
        )
    ]
    seconds = f"{np.median([one.evidence.seconds for one in found]):.0f}"
    if found is sets.clean:
        return [name, attack, str(len(found)), "", "", "", beyond(found, sets), *rules, "", seconds]
    area, low, high = auc(scalars(found), scalars(sets.clean))
    return [
        name,
        attack,
        str(len(found)),
        f"{100 * min(one.asr or 0 for one in found):.0f} up",
        f"{area:.2f}",
        f"{low:.2f} to {high:.2f}",
        beyond(found, sets),
        *rules,
        share([one.evidence.foremost == TARGET for one in found]),
        seconds,
    ]


def rows(sets: dict[str, Sets]) -> list[list[str]]:
    """Each attack, all of them together, then clean models, of each detector."""
    table = []
    for name, one in sets.items():
        if not one.victims or len(one.clean) < 2:
            continue
        together = [found for several in one.victims.values() for found in several]
        for attack, found in {**one.victims, "all": together}.items():
            table.append(row(name, attack, found, one))
        table.append(row(name, "clean", one.clean, one))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="mnist", help="of the table")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    parser.add_argument("--victims", type=int, default=20, help="over all attacks")
    parser.add_argument("--clean", type=int, default=20)
    parser.add_argument("--table-only", action="store_true", help="of what is there already")
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_args()
    outputs = ROOT / "outputs" / f"detectors_{chosen.name}"
    options = [f"dataset={chosen.dataset}", f"paths.outputs={outputs}", "pictures=false"]
    counts = dealt(chosen.attacks, chosen.victims)
    with kept(outputs):
        if not chosen.table_only:
            run_grids(counts, chosen.clean, [*options, *chosen.overrides])
    records = [one for one in collect(outputs).values() if one.task == "inspect"]
    typed = [one for one in sys.argv[1:] if one != "--table-only"]
    command = " ".join(["python -m benchmarks.detectors", *typed])
    text = [
        f"# {chosen.name}: what detectors tell of victims and of clean models",
        "AUC of each detector's scalar, victims against clean models of other seeds, with the 95 % "
        "interval over models drawn with replacement. `set on clean models`: the threshold is what "
        "no model of one half of these clean ones exceeds; victims are judged by either half's, a "
        "clean model by that of the half that it is not in. The paper's rule and the house rule "
        "(`conf/detector`; calibrated by the number of classes, without any model) were set before "
        "as well: on clean models each sign is a false alarm. "
        "`target is foremost`: the class that stands out most is the attacker's. ASR is that of "
        "the weakest victim. Seconds are medians.",
        f"Made on {date.today()} by `{command}`, {machine()}.",
        markdown(HEADS, rows(by_detector(records))),
    ]
    file = Path(__file__).with_name(f"detectors_{chosen.name}.md")
    file.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
