"""Cells as SLURM jobs, by submitit: victims first, the time-out requeued, a death noticed."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backdoor_lab.config.places import ROOT
from backdoor_lab.console import progress_bar
from backdoor_lab.run.cells import makers_and_rest
from backdoor_lab.run.child import BUSY, killed
from backdoor_lab.run.pool import Work
from backdoor_lab.run.slurm_cell import SlurmCell, left_in

log = logging.getLogger(__name__)
SHARED = ("name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node")  # not SLURM's alone
ARRAY = 1000  # SLURM takes no larger ones, unless it is told to


@dataclass
class Queue:
    """Sends cells to the queue, and waits until it has none of them left.

    The queue is asked, and a file that each job writes at its end: accounts, of which submitit
    would learn that a job died, are not kept on every cluster.

    Args:
        command: what runs a cell, but for its overrides.
        logs: folder of what cells say.
        settings: of each job, by submitit's names.
        requeued: how often a job that runs out of time goes back to the queue.
        tries: of a cell whose process was killed.
        poll: seconds between two looks at the queue.
    """

    command: Sequence[str]
    logs: Path
    settings: Mapping[str, Any]
    requeued: int
    tries: int
    poll: float
    jobs: dict[str, Work] = field(default_factory=dict)
    used: dict[int, int] = field(default_factory=dict)
    busy: set[int] = field(default_factory=set)

    def run(self, waiting: list[Work]) -> set[int]:
        """Run all; what they left is judged elsewhere.

        Returns:
            The numbers of those that another process is running.
        """
        after: str | None = None
        try:
            for array in arrays(waiting):
                after = self.send(array, after)
            log.info("%d cells in the queue; what they say: %s", len(waiting), self.logs)
            with progress_bar() as bar:
                task = bar.add_task("grid", total=len(waiting))
                while self.jobs:
                    time.sleep(self.poll)
                    for job in self.gone():
                        if not self.again(self.jobs.pop(job)):
                            bar.advance(task)
        finally:
            self.cancel()
        return self.busy

    def send(self, array: Sequence[Work], after: str | None = None) -> str:
        """One array of jobs, which begins when the array `after` has ended; its number."""
        import submitit

        executor = submitit.AutoExecutor(
            self.logs / "slurm" / "%j", cluster="slurm", slurm_max_num_timeout=self.requeued
        )
        executor.update_parameters(
            **{name if name in SHARED else f"slurm_{name}": x for name, x in self.settings.items()},
            slurm_setup=[f'export PYTHONPATH="{ROOT}:$PYTHONPATH"'],
            **({"slurm_dependency": f"afterany:{after}"} if after else {}),
        )
        for work in array:
            self.code(work).unlink(missing_ok=True)
            self.used[work.number] = self.used.get(work.number, 0) + 1
        with executor.batch():
            sent = [executor.submit(self.cell(work)) for work in array]
        self.jobs |= {job.job_id: work for job, work in zip(sent, array, strict=True)}
        return sent[0].job_id.partition("_")[0]

    def cell(self, work: Work) -> SlurmCell:
        command = (*self.command, *work.overrides)
        return SlurmCell(command, self.logs / f"{work.number}.log", self.code(work))

    def code(self, work: Work) -> Path:
        """The file in which a job leaves its cell's exit code."""
        return self.logs / f"{work.number}.code"

    def gone(self) -> list[str]:
        """The jobs that the queue no longer has; none where it does not answer."""
        command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
        if asked.returncode:
            log.warning("the queue does not answer: %s", asked.stderr.strip())
            return []
        return sorted(self.jobs.keys() - set(asked.stdout.split()))

    def again(self, work: Work) -> bool:
        """Whether a cell that is gone from the queue was killed and is sent once more."""
        code = left_in(self.code(work))
        name = " ".join(work.overrides)
        if code == 0:
            log.info("done: %s", name)
        elif code == BUSY:
            self.busy.add(work.number)
        if code in (0, BUSY):
            return False
        again = (code is None or killed(code)) and self.used[work.number] < self.tries
        told = "no exit code" if code is None else f"exit code {code}"
        log.error("%s (%s): %s", "tried again" if again else "failed", told, name)
        if again:
            self.send([work])
        return again

    def cancel(self) -> None:
        """Take from the queue what is left there."""
        if arrays := sorted({job.partition("_")[0] for job in self.jobs}):
            subprocess.run(["scancel", *arrays], check=False)


def arrays(waiting: Sequence[Work]) -> Iterator[list[Work]]:
    """Arrays that follow one another: first the cells that make victims."""
    for wave in makers_and_rest(waiting):
        for start in range(0, len(wave), ARRAY):
            yield wave[start : start + ARRAY]
