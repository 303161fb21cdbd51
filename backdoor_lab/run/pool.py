"""Cells in child processes, one at each place: a GPU, or some cores. Loads without torch."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from backdoor_lab.config.hardware import cores_here, visible_gpus
from backdoor_lab.run.child import BUSY, killed, nursery, run_cell
from backdoor_lab.run.view import View

log = logging.getLogger(__name__)
GRACE = 10.0  # seconds between asking children to end and killing them


@dataclass(frozen=True)
class Work:
    """A cell: its number, its overrides, and the victim that it needs."""

    number: int
    overrides: tuple[str, ...]
    victim: str

    def __str__(self) -> str:
        return " ".join(self.overrides)


@dataclass
class Child:
    """A cell that runs at a place."""

    work: Work
    place: dict[str, str]
    process: BaseProcess


def places(per_gpu: int, threads: int) -> list[dict[str, str]]:
    """The environment of each child that may run at once."""
    cores = cores_here()
    if gpus := visible_gpus():
        own = str(max(1, cores // (len(gpus) * per_gpu)))
        names = [gpu for gpu in gpus for _ in range(per_gpu)]
        return [{"CUDA_VISIBLE_DEVICES": name, "OMP_NUM_THREADS": own} for name in names]
    return [{"OMP_NUM_THREADS": str(threads)} for _ in range(max(1, cores // threads))]


@dataclass
class Pool:
    """Runs cells; those that need one victim wait until the first of them has made it.

    Args:
        script: what runs a cell, given its overrides.
        places: environments of children that may run at once.
        logs: folder of what children say.
        tries: of a cell whose process was killed.
    """

    script: Path
    places: list[dict[str, str]]
    logs: Path
    tries: int = 2
    running: list[Child] = field(default_factory=list)
    made: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)
    used: dict[int, int] = field(default_factory=dict)
    busy: set[int] = field(default_factory=set)

    def run(self, waiting: list[Work]) -> set[int]:
        """Run all; what they left is judged elsewhere.

        Returns:
            The numbers of those that another process is running.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        common = set.intersection(*(set(place.items()) for place in self.places))
        self.context = nursery(self.script, dict(common))
        free = list(self.places)
        log.info("%d cells, %d at once; what they say: %s", len(waiting), len(free), self.logs)
        try:
            with View(len(waiting)) as view:
                while waiting or self.running:
                    while free and (work := self.next(waiting)):
                        waiting.remove(work)
                        self.running.append(self.start(work, free.pop()))
                    view.running(len(self.running))
                    for child in [one for one in self.running if not one.process.is_alive()]:
                        free.append(child.place)
                        if self.ended(child, view):
                            waiting.append(child.work)
                    time.sleep(0.05)
        finally:
            self.stop()  # no child outlives the grid, whatever ends it
        return self.busy

    def next(self, waiting: list[Work]) -> Work | None:
        """A cell that may start: nobody makes its victim now; victims that are not made first."""
        taken = {child.work.victim for child in self.running} - self.made
        ready = (work for work in waiting if work.victim not in taken)
        return min(ready, key=lambda work: work.victim in self.made | self.elsewhere, default=None)

    def start(self, work: Work, place: dict[str, str]) -> Child:
        """A child that runs a cell."""
        self.used[work.number] = self.used.get(work.number, 0) + 1
        said = self.logs / f"{work.number}.log"
        arguments = (self.script, work.overrides, place, said)
        try:
            return Child(work, place, self.begun(arguments))
        except (EOFError, OSError):  # the server was killed; a new one takes its place
            return Child(work, place, self.begun(arguments))

    def begun(self, arguments: tuple[Any, ...]) -> BaseProcess:
        """A child at work."""
        process = self.context.Process(target=run_cell, args=arguments)
        process.start()
        return process

    def ended(self, child: Child, view: View) -> bool:
        """Take a child off the list; whether its cell is to be tried again."""
        self.running.remove(child)
        code, work = child.process.exitcode or 0, child.work
        child.process.close()
        again = killed(code) and self.used[work.number] < self.tries
        if code == BUSY:
            self.busy.add(work.number)
            self.elsewhere.add(work.victim)
            view.left(work)
        elif code == 0:
            self.made.add(work.victim)
            view.done(work)
        elif again:
            view.again(work, code)
        else:
            view.failed(work, code)
        return again

    def stop(self) -> None:
        """Ask all children to end, and see to it."""
        for child in self.running:
            child.process.terminate()
        deadline = time.monotonic() + GRACE
        for child in self.running:
            child.process.join(max(0.0, deadline - time.monotonic()))
            child.process.kill()
