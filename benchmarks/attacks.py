"""Every attack's victim: ACC, ASR, RA, how visible the trigger is, and what it took.

    python -m benchmarks.attacks                       # embedded digits, seeds 0 to 2
    python -m benchmarks.attacks --name cifar10 --seeds 0 dataset=cifar10 recipe=quick
    python -m benchmarks.attacks --name all_to_all --attacks badnets wanet -- attack.all_to_all=true

Runs the grid through the command line, several processes of one thread each; finished cells are not
repeated. Writes `benchmarks/attacks_<name>.md`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from backdoor_lab.config import ROOT
from backdoor_lab.records import Record, collect, mean_sd
from benchmarks.common import attack_names, machine, markdown
from benchmarks.confusion import clean_asr

HEADS = ("attack", "n", "ACC", "ASR", "of clean", "RA", "cross", "ΔACC", "PSNR", "SSIM", "seconds")


@dataclass(frozen=True)
class Made:
    """A victim beside the clean model of its seed, where there is one.

    Attributes:
        record: of the victim.
        gap: its ACC over that of the clean model.
        clean_asr: what the clean model makes of its triggered images.
    """

    record: Record
    gap: float | None = None
    clean_asr: float | None = None

    def score(self, name: str) -> float | None:
        value: float | None = getattr(self.record.victim, name, None)
        return value

    def stealth(self, name: str) -> float | None:
        return (self.record.trigger or {}).get(name)


def run_grid(names: list[str], outputs: Path, seeds: str, jobs: int, overrides: list[str]) -> None:
    """Fill `outputs`, the attacks dealt out to `jobs` processes."""
    common = ["task=victim", f"seed={seeds}", f"paths.outputs={outputs}", *overrides]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    processes = [
        subprocess.Popen(
            [sys.executable, "run.py", "-m", f"attack={','.join(names[job::jobs])}", *common],
            cwd=ROOT,
            env=environment,
        )
        for job in range(min(jobs, len(names)))
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(1)


def made_in(outputs: Path) -> dict[str, list[Made]]:
    """Victims by attack, clean training first."""
    records = [record for record in collect(outputs).values() if record.task == "victim"]
    clean = {record.seed: record for record in records if record.choices["attack"] == "none"}
    found: dict[str, list[Made]] = defaultdict(list)
    for record in records:
        base = clean.get(record.seed)
        found[record.choices["attack"]].append(against(base, record, outputs))
    return dict(sorted(found.items(), key=lambda item: item[0] != "none"))


def against(base: Record | None, record: Record, outputs: Path) -> Made:
    """A victim beside the clean one of its seed."""
    if base is None or base.victim is None or record.victim is None:
        return Made(record)
    confused = None if base is record else clean_asr(record, base, outputs)
    return Made(record, record.victim.acc - base.victim.acc, confused)


def row(name: str, made: Sequence[Made]) -> list[object]:
    """Means and deviations over the seeds of an attack."""
    return [
        name,
        len(made),
        mean_sd([one.score("acc") for one in made]),
        mean_sd([one.score("asr") for one in made]),
        mean_sd([one.clean_asr for one in made]),
        mean_sd([one.score("ra") for one in made]),
        mean_sd([one.score("cross") for one in made]),
        mean_sd([one.gap for one in made]),
        mean_sd([one.stealth("psnr") for one in made], 1),
        mean_sd([one.stealth("ssim") for one in made], 1, 3),
        mean_sd([one.record.spent.victim_seconds for one in made], 1, 0),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="digits", help="of the table")
    parser.add_argument("--attacks", nargs="+", default=attack_names(), help="all by default")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--table-only", action="store_true", help="of what is there already")
    parser.add_argument("--note", default="", help="a sentence for the reader of the table")
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_args()
    outputs = ROOT / "outputs" / f"attacks_{chosen.name}"
    if not chosen.table_only:
        run_grid(chosen.attacks, outputs, chosen.seeds, chosen.jobs, chosen.overrides)
    options = ["--name", chosen.name, "--seeds", chosen.seeds]
    if chosen.attacks != attack_names():
        options += ["--attacks", *chosen.attacks, "--"]
    command = " ".join(["python -m benchmarks.attacks", *options, *chosen.overrides])
    text = [
        f"# Victims of every attack: {chosen.name}",
        "Mean ± standard deviation over n seeds, in percent; `of clean` is the ASR that the clean "
        "model of the same seed has on the same triggered images (confusion, no backdoor), cross "
        "the accuracy on images that only look triggered, ΔACC against that clean model; PSNR in "
        "dB; seconds of one thread, with what an attack learns first where it was not there yet.",
        chosen.note,
        f"Made on {date.today()} by `{command}`, {machine()}.",
        markdown(HEADS, [row(name, made) for name, made in made_in(outputs).items()]),
    ]
    file = Path(__file__).parent / f"attacks_{chosen.name}.md"
    file.write_text("\n\n".join(filter(None, text)) + "\n")


if __name__ == "__main__":
    main()
