"""Cells as SLURM jobs, by submitit: victims first, the time-out requeued, a death noticed."""

from __future__ import annotations

import logging
import signal
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
ASKED_TO_END = (None, -signal.SIGTERM, 128 + signal.SIGTERM)  # what scancel leaves of a job
ARRAY = 1000  # SLURM takes no larger ones, unless it is told to


@dataclass(frozen=True)
class Ended:
    """A cell whose job is gone from the queue, and the exit code that it left, if any."""

    work: Work
    code: int | None

    @property
    def killed(self) -> bool:
        return self.code is None or killed(self.code)


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
            for wave in makers_and_rest(waiting):
                for array in arrays(wave):
                    after = self.send(array, after)
            log.info("%d cells in the queue; what they say: %s", len(waiting), self.logs)
            with progress_bar() as bar:
                task = bar.add_task("grid", total=len(waiting))
                cancelled = False
                while self.jobs and not cancelled:
                    time.sleep(self.poll)
                    ended = self.ended()
                    cancelled = self.cancelled(ended)
                    again = [] if cancelled else self.again(ended)
                    for array in arrays(again):
                        self.send(array)
                    bar.advance(task, len(ended) - len(again))
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
        return array_of(sent[0].job_id)

    def cell(self, work: Work) -> SlurmCell:
        command = (*self.command, *work.overrides)
        return SlurmCell(command, self.logs / f"{work.number}.log", self.code(work))

    def code(self, work: Work) -> Path:
        """The file in which a job leaves its cell's exit code."""
        return self.logs / f"{work.number}.code"

    def gone(self) -> set[str]:
        """The jobs that the queue no longer has; none where it does not answer."""
        command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
        if asked.returncode:
            log.warning("the queue does not answer: %s", asked.stderr.strip())
            return set()
        return self.jobs.keys() - set(asked.stdout.split())

    def ended(self) -> dict[str, Ended]:
        """The jobs that are gone now, no longer counted among those there are."""
        works = {job: self.jobs.pop(job) for job in self.gone()}
        codes = left_in([self.code(work) for work in works.values()])
        found = zip(works.items(), codes, strict=True)
        return {job: Ended(work, code) for (job, work), code in found}

    def cancelled(self, ended: Mapping[str, Ended]) -> bool:
        """Whether an array lost several jobs and has none left, as when somebody cancels it.

        Those that ran take some seconds longer to end than those that waited.
        """
        lost = [array_of(job) for job, one in ended.items() if one.code in ASKED_TO_END]
        several = {array for array in lost if lost.count(array) > 1}
        taken = several - set(map(array_of, self.jobs.keys() - self.gone())) if several else several
        if taken:
            log.error("jobs %s were cancelled: the grid ends with them", ", ".join(sorted(taken)))
        return bool(taken)

    def again(self, ended: Mapping[str, Ended]) -> list[Work]:
        """The cells that were killed and are sent once more; what became of each is told."""
        works = [one.work for one in ended.values() if self.tried_again(one)]
        return sorted(works, key=lambda work: work.number)

    def tried_again(self, one: Ended) -> bool:
        """Whether a cell that is gone from the queue was killed, and has a try left."""
        if one.code == BUSY:
            self.busy.add(one.work.number)
            return False
        if one.code == 0:
            log.info("done: %s", one.work)
            return False
        again = one.killed and self.used[one.work.number] < self.tries
        told = "no exit code" if one.code is None else f"exit code {one.code}"
        log.error("%s (%s): %s", "tried again" if again else "failed", told, one.work)
        return again

    def cancel(self) -> None:
        """Take from the queue what is left there."""
        if left := sorted(set(map(array_of, self.jobs))):
            subprocess.run(["scancel", *left], check=False)


def array_of(job: str) -> str:
    """The number of a job's array."""
    return job.partition("_")[0]


def arrays(wave: Sequence[Work]) -> Iterator[Sequence[Work]]:
    """Cells in arrays of a size that SLURM takes."""
    return (wave[start : start + ARRAY] for start in range(0, len(wave), ARRAY))
