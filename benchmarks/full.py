"""One paper's table at its full size, within some minutes, on a GPU; goes on where it stopped.

    python -m benchmarks.full --table unibp_table1 --minutes 25 attack=badnets,wanet paths.data=DIR
    python -m benchmarks.full --table unibp_table1 --minutes 5 --size demo defense=ft,unibp

Runs the preset's grid, ends it when the minutes are over (cells keep what they have, and the same
command resumes), and prints what there is beside what the paper prints. Further overrides narrow
the grid, as behind `run.py -m`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from backdoor_lab.config import ROOT
from backdoor_lab.run.cells import parsed

GRACE = 60  # seconds between asking a grid to end and killing it


def run(command: list[str], seconds: float) -> None:
    """Run a command, so long at most."""
    process = subprocess.Popen([sys.executable, "run.py", *command], cwd=ROOT)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", required=True, help="a preset, such as unibp_table1")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--size", default="paper")
    chosen, more = parser.parse_known_args()
    preset = [f"experiment={chosen.table}", f"size={chosen.size}"]
    run(["-m", *preset, "pictures=false", "keep_model=false", *more], 60 * chosen.minutes)
    # Lists are for -m; their gaps are holes of the table.
    single = [one for one in more if not parsed(one).is_sweep_override()]
    subprocess.run([sys.executable, "run.py", "task=table", *preset, *single], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
