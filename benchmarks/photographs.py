"""Every defense on photographs, beside what the papers print: a small model, no replication.

    python -m benchmarks.photographs --data DIR               # reserved images, every defense
    python -m benchmarks.photographs --data DIR --part beside  # external images, a second seed
    python -m benchmarks.photographs --data DIR --attacks sig  # a victim and what is done to it

Wants `DIR/cifar10/{train,test}/<class>/*` and `DIR/external-cifar10/<class>/*`. Runs the grids
through the command line (finished cells are not repeated), reads their records and writes
`benchmarks/photographs.md`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from scipy import stats

from backdoor_lab.config import ROOT
from backdoor_lab.evaluation.scores import Scores, defense_effectiveness
from backdoor_lab.papers import Printed, printed
from backdoor_lab.records import Record, collect
from backdoor_lab.reports.table import percent, rate
from benchmarks.common import data_free, machines, markdown, names, write_page
from benchmarks.kept import kept

ATTACKS = "badnets,blended,wanet,sig"
WITHOUT_DATA = data_free()
WITH_DATA = ",".join(names("defense", without=["none", *WITHOUT_DATA]))
SOME = "ft_matched,ft_tuned,unibp,unibp_random,bcu"
PARTS = {
    "victims": [["task=victim"]],
    "reserved": [
        [f"defense={WITH_DATA}", "aux=reserved"],
        [f"defense={','.join(WITHOUT_DATA)}", "aux=none"],
    ],
    "beside": [
        [f"defense={SOME}", "aux=external"],
        ["defense=ft", "aux=external", "calibration=none,gic", "seed=0,1"],
        [f"defense={SOME}", "aux=reserved", "seed=1"],
        ["defense=cc", "aux=none", "seed=1"],
    ],
}
PRINTED: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("unibp", "1", {"aux_ratio": "0.1"}), ("cc", "3", {}), ("bcu", "1", {"variant": ""}),
)  # fmt: skip
HEADS = (
    "attack", "defense", "aux", "calibration", "seed", "victim ACC", "ASR", "target", "worst",
    "purified ACC", "ASR", "target", "worst", "DER", "s", "printed", "ACC", "ASR", "DER", "doubt",
)  # fmt: skip


def overrides(data: Path, outputs: Path) -> list[str]:
    """What all cells have in common: UniBP's settings, a narrow network, 2,500 reserved images."""
    return [
        "protocol=unibp", "size=small", "dataset=imagefolder", f"dataset.root={data}/cifar10",
        "dataset.name=cifar10", "dataset.flip=true", "dataset.mean=[0.4914,0.4822,0.4465]",
        "dataset.std=[0.247,0.243,0.261]", "dataset.reserved=0.05", "pictures=false",
        "keep_model=false", f"paths.external={data}/external-cifar10", f"paths.outputs={outputs}",
        f"paths.cache={outputs}/cache", "++values_for.reserved.ratio_base=original",
        "++values_for.external.ratio_base=original",
    ]  # fmt: skip


def printed_pair(attack: str, defense: str) -> tuple[str, Scores, Scores, bool] | None:
    """Where a pair is printed, its victim and its purified model, and whether that is in doubt."""
    for paper, table, wanted in PRINTED:
        rows = [row for row in printed(paper, table) if fits(row, attack, wanted)]
        before, after = ([row for row in rows if row.defense == name] for name in ("none", defense))
        if before and after:
            doubt = any(row.reasons() for row in after if row.metric != "der")
            return f"{paper} {table}", scores(before), scores(after), doubt
    return None


def fits(row: Printed, attack: str, wanted: dict[str, str]) -> bool:
    """Whether a printed row is of the attack, all-to-one, in the block that is wanted."""
    own = all(getattr(row, key) == value for key, value in wanted.items())
    return own and (row.attack, row.target_mode) == (attack, "all2one")


def scores(rows: Iterable[Printed]) -> Scores:
    """ACC and ASR of printed rows."""
    found = {row.metric: float(row.value) / 100 for row in rows}
    return Scores(found["acc"], found["asr"])


def row(record: Record) -> tuple[list[object], tuple[float, float] | None]:
    """A line of the table, and our DER with the printed one where both are known."""
    chosen, victim, purified = record.choices, record.victim, record.purified
    own = [rate(victim, name, 1) for name in ("acc", "asr", "acc_target", "acc_worst")]
    own += [rate(purified, name, 1) for name in ("acc", "asr", "acc_target", "acc_worst", "der")]
    seconds = f"{record.spent.seconds.get('purify', 0):.0f}"
    line: list[object] = [chosen["attack"], chosen["defense"], chosen["aux"], chosen["calibration"]]
    line += [record.seed, *own, seconds]
    pair = printed_pair(chosen["attack"], chosen["defense"])
    if pair is None or chosen["aux"] == "external":
        return [*line, *["–"] * 5], None
    source, before, after, doubt = pair
    ours = purified.der if purified else None
    theirs = defense_effectiveness(before, after)
    line += [source, rate(after, "acc", 1), rate(after, "asr", 1), percent(theirs, 1)]
    line.append("misprint?" if doubt else "")
    return line, None if ours is None or theirs is None else (ours, theirs)


def correlation(pairs: Sequence[tuple[float, float]]) -> str:
    """Spearman's rank correlation with a bootstrap interval, in a sentence."""
    if len(pairs) < 10:
        return f"{len(pairs)} pairs: too few to rank."
    ours, theirs = zip(*pairs, strict=True)
    found = stats.spearmanr(ours, theirs)
    drawn = stats.bootstrap(
        (ours, theirs), lambda a, b: stats.spearmanr(a, b).statistic, paired=True,
        vectorized=False, n_resamples=2000, rng=0,
    ).confidence_interval  # fmt: skip
    return (
        f"Spearman's rank correlation of our DER (reserved images, seed 0) with the printed one: "
        f"{found.statistic:.2f}, n = {len(pairs)}, 95% bootstrap interval {drawn.low:.2f} to "
        f"{drawn.high:.2f}; theirs is recomputed from the printed ACC and ASR, and pairs in doubt "
        "are in it."
    )


def report(records: Sequence[Record]) -> None:
    """Write the page: what it is, the table, the correlation."""
    lines, pairs = [], []
    for record in sorted(records, key=lambda one: (one.seed, *one.choices.values())):
        line, pair = row(record)
        lines.append(line)
        if pair and record.seed == 0 and record.choices["aux"] in ("reserved", "none"):
            pairs.append(pair)
    write_page(
        Path(__file__).with_suffix(".md"),
        "Photographs: every defense beside what the papers print",
        "A small model on JPEGs, no replication: CIFAR-10's 47,500 training images (2,500 are kept "
        "apart for the defender) and 10,000 test images went through JPEG of quality 75; "
        "PreAct-ResNet18 of width 16, 12 epochs; lengths of the defenses as `size=small` says. "
        "Percent; `target` and `worst` are accuracies on clean images of the target class and of "
        "the worst class. Printed: UniBP's Table 1 at 10% (the defender here has 5%), else C&C's "
        "Table 3, else BCU's Table 1, none of which has images of another source. "
        "One seed a row: no spread, no claim.",
        f"`python -m benchmarks.photographs --data DIR`, and again with `--part beside`, on "
        f"{machines(records)}; other work shared the machines, so that seconds are upper bounds",
        markdown(HEADS, lines),
        correlation(pairs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, default="reserved")
    parser.add_argument("--attacks", default=ATTACKS)
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs" / "photographs")
    parser.add_argument("--table-only", action="store_true", help="of what is there already")
    chosen, more = parser.parse_known_args()
    attacks = f"attack={chosen.attacks}"
    common = overrides(chosen.data.resolve(), chosen.outputs.resolve())
    with kept(chosen.outputs, {str(chosen.data.resolve()): "DIR"}):
        for grid in () if chosen.table_only else PARTS[chosen.part]:
            command = [sys.executable, "run.py", "-m", attacks, *grid, *common, *more]
            subprocess.run(command, cwd=ROOT, check=False)  # what failed is told, and left out
    found = [one for one in collect(chosen.outputs / "runs").values() if one.purified]
    report(found)


if __name__ == "__main__":
    main()
