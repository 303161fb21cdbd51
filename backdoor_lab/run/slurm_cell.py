"""A cell in a SLURM job, and the file in which it leaves its exit code."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backdoor_lab.run.worker import run_child

VISIBLE = 15.0  # seconds until a file of another machine is seen


@dataclass(frozen=True)
class SlurmCell:
    """What a job calls: a cell as a child; when it is requeued, it goes on from what is done."""

    command: tuple[str, ...]
    said: Path
    code: Path

    def __call__(self) -> None:
        threads = os.environ.get("SLURM_CPUS_PER_TASK")
        own = {"OMP_NUM_THREADS": threads} if threads else {}
        self.code.write_text(str(run_child(self.command, own, self.said)))

    def checkpoint(self) -> Any:
        """Submitit asks before the time is over; a victim's training has saved itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def left_in(files: Sequence[Path]) -> list[int | None]:
    """The numbers in files of other machines, which may be late; None for one that does not come.

    All are waited for at once.
    """
    deadline = time.monotonic() + VISIBLE
    while not all(file.exists() for file in files) and time.monotonic() < deadline:
        time.sleep(0.2)
    texts = (file.read_text() if file.exists() else "" for file in files)
    return [int(text) if text else None for text in texts]
