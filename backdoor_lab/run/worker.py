"""A cell as a child of a worker on a cluster: of a SLURM job, of a Ray task. Without torch."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from backdoor_lab.run.child import CELL
from backdoor_lab.run.pool import GRACE

DRIVERS = ("BACKDOOR_LAB_", "WANDB_")  # how variables begin that a cell needs wherever it runs
DEAF = signal.SIGUSR2  # how a cluster warns a worker; Python would end of it


def of_driver() -> dict[str, str]:
    """The variables here that a worker hands on to its child, which may not inherit them."""
    return {name: value for name, value in os.environ.items() if name.startswith(DRIVERS)}


def run_child(
    command: Sequence[str], environment: Mapping[str, str], said: Path, folder: Path | None = None
) -> int:
    """The exit code of a cell that does not outlive its worker.

    Args:
        command: runs the cell.
        environment: is added to the worker's, before Python starts in the child.
        said: the file that what it says is added to.
        folder: from which relative paths are read; None: the worker's, which is the driver's where
            SLURM starts it, and any other where Ray does.
    """
    said.parent.mkdir(parents=True, exist_ok=True)
    with said.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, CELL: "1"},
            cwd=folder,
            preexec_fn=_deaf,
        )
        try:
            return child.wait()
        finally:
            _end(child)


def _deaf() -> None:
    signal.signal(DEAF, signal.SIG_IGN)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask a child to end, if it runs, and see to it."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
