"""One paper's table at its full size, within some minutes, on a GPU; goes on where it stopped.

    python -m benchmarks.full --table unibp_table1 --minutes 25 attack=badnets,wanet paths.data=DIR
    python -m benchmarks.full --table unibp_table1 --minutes 5 --size demo defense=ft,unibp

Runs the preset's grid, ends it when the minutes are over (cells keep what they have, and the same
command resumes), and prints the table with its holes; beside what the paper prints it lies in
`reports/tables` below paths.outputs. Further overrides narrow the grid, as behind `run.py -m`. A
trial at a thousandth of the size, interrupted three times: `benchmarks/full_trial.md`.

Exit codes: 0, every cell has its result; 1, what was asked cannot work, or cells have failed; 124,
the minutes are over and the same command goes on; 128 and the signal's number, ended by a signal.
Where both the grid and the table end badly, the higher one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from hydra.errors import HydraException

from backdoor_lab.config import ROOT
from backdoor_lab.config.choices import refuse_choices
from backdoor_lab.config.typos import refuse_typos
from backdoor_lab.errors import ConfigError
from backdoor_lab.run.cells import parsed
from backdoor_lab.run.child import killed
from backdoor_lab.run.exits import Stopped, ending_well
from backdoor_lab.tasks.table import presets

OVER = 124  # the exit code when the minutes are over, as of timeout(1)
GRACE = 60  # seconds between asking a grid to end and killing it
OWN_END = 15  # seconds for a command that was sent the signal too, as by Ctrl-C: two are no request


def refuse(table: str, minutes: float, preset: Sequence[str], more: Sequence[str]) -> None:
    """Refuse here what both commands would.

    Raises:
        ConfigError: names what was given, and what is allowed.
    """
    if table not in (known := list(presets())):
        raise ConfigError(f"--table {table} is no table's preset; allowed: {', '.join(known)}")
    if not minutes > 0:
        raise ConfigError(f"--minutes {minutes:g}; allowed: more than 0")
    for one in more:
        try:
            parsed(one)
        except HydraException as error:
            raise ConfigError(f"{one} is no override ({error}); allowed: key=value") from None
    command = ["-m", *preset, *more]
    refuse_typos(command)
    refuse_choices(command)


def run(command: Sequence[str], seconds: float | None = None) -> int:
    """Run a command, so long at most; its exit code, or `OVER`.

    It does not outlive this process where a signal ends that.
    """
    process = subprocess.Popen([sys.executable, "run.py", *command], cwd=ROOT)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        code = ended(process)
        return OVER if killed(code) else code  # it may have come to its end meanwhile
    except Stopped:
        with suppress(subprocess.TimeoutExpired):
            process.wait(OWN_END)
        ended(process)
        raise
    return 128 - code if code < 0 else code


def ended(process: subprocess.Popen[bytes]) -> int:
    """Ask a process to end, and see to it; its exit code."""
    process.terminate()
    try:
        return process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def grid_and_table(preset: Sequence[str], more: Sequence[str], minutes: float) -> int:
    """Run the grid, then set out what there is; the worse of both exit codes."""
    grid = run(["-m", *preset, "pictures=false", "keep_model=false", *more], 60 * minutes)
    # Lists are for -m; their gaps are holes of the table.
    single = [one for one in more if not parsed(one).is_sweep_override()]
    table = run(["task=table", *preset, *single])
    if grid == OVER:
        sys.stderr.write(f"{minutes:g} minutes are over: the same command goes on\n")
    return max(grid, table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", required=True, help="a preset, such as unibp_table1")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--size", default="paper")
    parser.add_argument("overrides", nargs="*", help="of the grid, as behind run.py -m")
    chosen = parser.parse_intermixed_args()
    preset = [f"experiment={chosen.table}", f"size={chosen.size}"]
    with ending_well():
        refuse(chosen.table, chosen.minutes, preset, chosen.overrides)
        code = grid_and_table(preset, chosen.overrides, chosen.minutes)
    sys.exit(code)


if __name__ == "__main__":
    main()
