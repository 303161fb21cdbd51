"""Cells in child processes, one at each place: a GPU, or some cores. Loads without torch."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from backdoor_lab.console import progress_bar

log = logging.getLogger(__name__)
CELL = "BACKDOOR_LAB_CELL"  # set in a child: it says in its folder why it failed
GRACE = 10.0  # seconds between asking children to end and killing them


@dataclass(frozen=True)
class Work:
    """A cell: its number, its overrides, and the victim that it needs."""

    number: int
    overrides: tuple[str, ...]
    victim: str


@dataclass
class Child:
    """A cell that runs at a place."""

    work: Work
    place: dict[str, str]
    process: subprocess.Popen[bytes]
    output: IO[bytes]


def places(per_gpu: int, threads: int) -> list[dict[str, str]]:
    """The environment of each child that may run at once, set before Python starts in it."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if gpus := visible_gpus():
        own = str(max(1, cores // (len(gpus) * per_gpu)))
        names = [gpu for gpu in gpus for _ in range(per_gpu)]
        return [{"CUDA_VISIBLE_DEVICES": name, "OMP_NUM_THREADS": own} for name in names]
    return [{"OMP_NUM_THREADS": str(threads)} for _ in range(max(1, cores // threads))]


def visible_gpus() -> list[str]:
    """The GPUs that children may use: those of CUDA_VISIBLE_DEVICES, or all."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is not None:
        return [name for name in asked.split(",") if name.strip()]
    return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


@dataclass
class Pool:
    """Runs cells; those that need one victim wait until the first of them has made it.

    Args:
        command: what runs a cell, but for its overrides.
        places: environments of children that may run at once.
        logs: folder of what children say.
        tries: of a cell whose process was killed.
    """

    command: Sequence[str]
    places: list[dict[str, str]]
    logs: Path
    tries: int = 2
    running: list[Child] = field(default_factory=list)
    made: set[str] = field(default_factory=set)
    used: dict[int, int] = field(default_factory=dict)

    def run(self, waiting: list[Work]) -> None:
        """Run all; what they left is judged elsewhere."""
        self.logs.mkdir(parents=True, exist_ok=True)
        free = list(self.places)
        log.info("%d cells, %d at once; what they say: %s", len(waiting), len(free), self.logs)
        with ended_with_us(self), progress_bar() as bar:
            task = bar.add_task("grid", total=len(waiting))
            while waiting or self.running:
                while free and (work := self.next(waiting)):
                    waiting.remove(work)
                    self.running.append(self.start(work, free.pop()))
                for child in [one for one in self.running if one.process.poll() is not None]:
                    free.append(child.place)
                    if self.ended(child):
                        waiting.append(child.work)
                    else:
                        bar.advance(task)
                time.sleep(0.05)

    def next(self, waiting: list[Work]) -> Work | None:
        """A cell that may start: nobody else is making its victim at this moment."""
        in_the_making = {child.work.victim for child in self.running} - self.made
        return next((work for work in waiting if work.victim not in in_the_making), None)

    def start(self, work: Work, place: dict[str, str]) -> Child:
        """A child in a session of its own, so that Ctrl-C reaches it through us alone."""
        self.used[work.number] = self.used.get(work.number, 0) + 1
        output = (self.logs / f"{work.number}.log").open("ab")
        process = subprocess.Popen(
            [*self.command, *work.overrides],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **place, CELL: "1"},
            start_new_session=True,
        )
        return Child(work, place, process, output)

    def ended(self, child: Child) -> bool:
        """Take a child off the list; whether its cell is to be tried again."""
        self.running.remove(child)
        child.output.close()
        code, work = child.process.returncode, child.work
        name = " ".join(work.overrides)
        if code == 0:
            self.made.add(work.victim)
            log.info("done: %s", name)
            return False
        killed = code < 0 or code > 128
        again = killed and self.used[work.number] < self.tries
        log.error("%s (exit code %d): %s", "tried again" if again else "failed", code, name)
        return again

    def stop(self) -> None:
        """Ask all children to end, and see to it."""
        for child in self.running:
            child.process.terminate()
        deadline = time.monotonic() + GRACE
        for child in self.running:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()


@contextmanager
def ended_with_us(pool: Pool) -> Iterator[None]:
    """No child outlives the grid, also where it is asked to end."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        pool.stop()
        signal.signal(signal.SIGTERM, before)
