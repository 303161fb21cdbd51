"""Cells as Ray tasks: victims first, Ray's own retries where a child or its worker is killed."""

from __future__ import annotations

import logging
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from backdoor_lab.console import progress_bar
from backdoor_lab.run.cells import makers_and_rest
from backdoor_lab.run.child import BUSY, killed
from backdoor_lab.run.pool import GRACE, Work
from backdoor_lab.run.worker import of_driver, run_child

log = logging.getLogger(__name__)


class CellKilledError(Exception):
    """What Ray repeats a cell for."""


@dataclass(frozen=True)
class Needs:
    """What a cell reserves, and how often it is tried.

    Args:
        gpus: 0: it sees none; a share: several cells see one.
        cpus: and threads.
        tries: of a cell whose process was killed.
    """

    gpus: float
    cpus: int
    tries: int


@dataclass(frozen=True)
class RayTasks:
    """Sends cells to a cluster that is connected, and waits for them.

    Args:
        command: what runs a cell, but for its overrides.
        logs: folder of what cells say.
        needs: of each.
    """

    command: Sequence[str]
    logs: Path
    needs: Needs
    busy: set[int] = field(default_factory=set)

    def run(self, waiting: list[Work]) -> set[int]:
        """Run all; what they left is judged elsewhere.

        Returns:
            The numbers of those that another process is running.
        """
        makers, rest = makers_and_rest(waiting)
        behind: defaultdict[str, list[Work]] = defaultdict(list)
        for work in rest:
            behind[work.victim].append(work)
        log.info("%d cells sent to Ray; what they say: %s", len(waiting), self.logs)
        running = {self.send(work): work for work in makers}
        try:
            with progress_bar() as bar:
                task = bar.add_task("grid", total=len(waiting))
                while running:
                    (done, *_), _ = ray.wait(list(running), num_returns=1)
                    work = running.pop(done)
                    for freed in next_after(self.ended(done, work), behind[work.victim]):
                        running[self.send(freed)] = freed
                    bar.advance(task)
        finally:
            for one in running:
                ray.cancel(one)  # its child is asked to end
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=2 * GRACE)
        return self.busy

    def send(self, work: Work) -> Any:
        """The reference of a cell's exit code."""
        environment = {**of_driver(), "OMP_NUM_THREADS": str(self.needs.cpus)}
        if not self.needs.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""  # Ray shows all to those that reserve none
        task = ray.remote(cell).options(
            num_gpus=self.needs.gpus,
            num_cpus=self.needs.cpus,
            max_retries=self.needs.tries - 1,
            retry_exceptions=[CellKilledError],
        )
        command = [*self.command, *work.overrides]
        return task.remote(command, environment, self.logs / f"{work.number}.log", Path.cwd())

    def ended(self, reference: Any, work: Work) -> bool:
        """Whether a cell ended well; says so."""
        name = " ".join(work.overrides)
        try:
            code = ray.get(reference)
        except ray.exceptions.RayError as error:  # the last try was killed as well
            log.error("failed (%s): %s", str(error).strip().splitlines()[-1], name)
            return False
        if code == BUSY:
            self.busy.add(work.number)
        elif code:
            log.error("failed (exit code %d): %s", code, name)
        else:
            log.info("done: %s", name)
        return code == 0


def cell(command: Sequence[str], environment: Mapping[str, str], said: Path, folder: Path) -> int:
    """What a task does: the exit code of a child.

    Raises:
        CellKilledError: it was killed.
    """
    code = run_child(command, environment, said, folder)
    if killed(code):
        raise CellKilledError(f"exit code {code}")
    return code


def next_after(well: bool, behind: list[Work]) -> list[Work]:
    """The cells that a victim's first one frees: all, or the next, which makes the victim then."""
    count = len(behind) if well else 1
    freed, behind[:] = behind[:count], behind[count:]
    return freed


@contextmanager
def connected(address: str | None, gpus: float | None) -> Iterator[float]:
    """A cluster, a local one without an address; yields how many GPUs a cell reserves there."""
    before = signal.getsignal(signal.SIGTERM)
    own = {} if address else {"include_dashboard": False}
    ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    signal.signal(signal.SIGTERM, before)  # Ray would end the process in words of its own
    try:
        yield float(bool(ray.cluster_resources().get("GPU"))) if gpus is None else gpus
    finally:
        ray.shutdown()
