"""A cell as a child of a worker on a cluster: of a SLURM job, of a Ray task. Without torch."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from backdoor_lab.run.child import CELL
from backdoor_lab.run.pool import GRACE

DEAF = signal.SIGUSR2  # how a cluster warns a worker; Python would end of it


def run_child(command: Sequence[str], environment: Mapping[str, str], said: Path) -> int:
    """The exit code of a cell that does not outlive its worker; its words are added to `said`.

    Workers of a cluster start with the driver's environment, so that a device and threads are set
    here, before Python starts in the child.
    """
    said.parent.mkdir(parents=True, exist_ok=True)
    with said.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, CELL: "1"},
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
