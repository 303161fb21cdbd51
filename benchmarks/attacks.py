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
from datetime import date
from pathlib import Path
from typing import Any

from backdoor_lab.configuration import ROOT
from benchmarks.common import attack_names, machine, markdown, newest_results, spread
from benchmarks.confusion import clean_asr

HEADS = ("attack", "n", "ACC", "ASR", "of clean", "RA", "cross", "ΔACC", "PSNR", "SSIM", "seconds")
RATES = ("acc", "asr", "clean_asr", "ra", "cross")
Results = list[dict[str, Any]]


def run_grid(names: list[str], outputs: Path, seeds: str, jobs: int, overrides: list[str]) -> None:
    """Fill `outputs`, the attacks dealt out to `jobs` processes."""
    common = ["defense=none", "aux=none", "pictures=false", f"seed={seeds}"]
    common += [f"paths.outputs={outputs}", *overrides]
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


def collect(outputs: Path) -> dict[str, Results]:
    """Results by attack, clean training first, with what the clean model of their seed makes."""
    results = newest_results(outputs)
    victims = outputs / "victims"
    clean = {
        result["seed"]: victims / result["victim_folder"]
        for result in results.values()
        if result["attack"] == "none"
    }
    found: dict[str, Results] = {}
    for file, result in results.items():
        if result["attack"] != "none" and result["seed"] in clean:
            result["victim"]["clean_asr"] = clean_asr(file, clean[result["seed"]], victims)
        found.setdefault(result["attack"], []).append(result)
    return dict(sorted(found.items(), key=lambda item: item[0] != "none"))


def rows(found: dict[str, Results]) -> list[list[object]]:
    """A row an attack: means and deviations over seeds."""
    clean = {result["seed"]: result["victim"]["acc"] for result in found.get("none", [])}
    return [
        [
            name,
            len(results),
            *(spread([one["victim"].get(key) for one in results]) for key in RATES),
            spread([gap(one, clean) for one in results]),
            spread([(one["trigger"] or {}).get("psnr") for one in results], 1),
            spread([(one["trigger"] or {}).get("ssim") for one in results], 1, 3),
            spread([one["seconds"]["victim"] for one in results], 1, 0),
        ]
        for name, results in found.items()
    ]


def gap(result: dict[str, Any], clean: dict[int, float]) -> float | None:
    """ACC over that of the clean model of the same seed, where there is one."""
    seed: int = result["seed"]
    return result["victim"]["acc"] - clean[seed] if seed in clean else None


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
        markdown(HEADS, rows(collect(outputs))),
    ]
    file = Path(__file__).parent / f"attacks_{chosen.name}.md"
    file.write_text("\n\n".join(filter(None, text)) + "\n")


if __name__ == "__main__":
    main()
