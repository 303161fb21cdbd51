"""Whether a defense has removed a backdoor or hidden it: ASR after re-learning, on mnist.

    python -m benchmarks.relearning --seeds 0,1,2

Runs a grid through the command line (finished cells are not repeated), reads its records and writes
`benchmarks/relearning_mnist.md`. Every model is tuned on 1,000 training images of which five carry
the trigger. A clean model, which learns the trigger from nothing, and the victim that was tuned on
triggered images under their true labels are the scale.
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
from benchmarks.common import machines, markdown, write_page
from benchmarks.kept import kept

OUTPUTS = ROOT / "outputs" / "relearning_mnist"
GRID = [
    "attack=badnets", "defense=ft,ft_sam,fp,nad,mcr,fst,sau,tsbd,bnp,unibp", "aux=reserved",
    "dataset=mnist", "evaluation.relearn=5", "pictures=false", "keep_model=false",
]  # fmt: skip
AFTER = ("purified", "victim", "clean", "exact")
HEADS = ("defense", "n", "ACC", "ASR", *(f"{name} ACC, ASR" for name in AFTER))


def table(records: Iterable[Record]) -> str:
    """A row a defense: after it, and what each model is after re-learning."""
    cells: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        cells[record.choices["defense"]].append(record)
    return markdown(HEADS, (row(name, found) for name, found in sorted(cells.items())))


def row(name: str, found: list[Record]) -> list[object]:
    """Means and deviations over seeds."""
    before = [mean_sd([getattr(one.purified, rate) for one in found]) for rate in ("acc", "asr")]
    return [name, len(found), *before, *(taught(found, model) for model in AFTER)]


def taught(found: list[Record], model: str) -> str:
    """ACC and ASR of a model after re-learning."""
    rates = ("acc", "asr")
    means = [mean_sd([getattr(one.relearned[model], rate) for one in found]) for rate in rates]
    return ", ".join(means)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--table-only", action="store_true", help="of what is there already")
    chosen = parser.parse_args()
    command = [sys.executable, "run.py", "-m", *GRID, f"seed={chosen.seeds}"]
    with kept(OUTPUTS):
        if not chosen.table_only:
            subprocess.run([*command, f"paths.outputs={OUTPUTS}"], cwd=ROOT, check=True)
    found = [one for one in collect(OUTPUTS).values() if one.purified and one.relearned]
    write_page(
        Path(__file__).with_name("relearning_mnist.md"),
        "mnist: ASR after re-learning",
        "Mean ± standard deviation over n seeds, percent. First what a defense left of badnets, "
        "then ACC and ASR of each model after 40 steps on 1,000 training images, five of which "
        "carry the trigger: `clean` never had a backdoor, `exact` is the victim tuned on triggered "
        "images under their true labels. An ASR far above that of `clean` shows that a backdoor "
        "was hidden.",
        f"`python -m benchmarks.relearning --seeds {chosen.seeds}`, on {machines(found)}",
        table(found),
    )


if __name__ == "__main__":
    main()
