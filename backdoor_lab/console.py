"""The terminal: one console, one look of progress bars; lines now and then where there is none."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from functools import cache

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

log = logging.getLogger(__name__)
EVERY = 30.0  # seconds between two lines


@cache
def console() -> Console:
    """The console that tables and progress bars share."""
    return Console(markup=False)  # a class may be called [cat]


def say(lines: Iterable[str]) -> None:
    """Lines that can be copied as they are."""
    for line in lines:
        console().print(line, soft_wrap=True, highlight=False)


class Lines(Progress):
    """A bar that is not drawn: a line every `EVERY` seconds, for those who read a file.

    A task's field `told`, a function, says more than the count.
    """

    last = 0.0

    def start(self) -> None:
        self.last = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        if time.monotonic() - self.last < EVERY:
            return
        self.last = time.monotonic()
        task = self._tasks[task_id]
        told = task.fields.get("told")
        count = told() if told else f"{task.completed:.0f} of {task.total:.0f}"
        left = task.time_remaining
        rest = "" if left is None else f", {left:.0f} s left"
        log.info("%s: %s%s", task.description, count, rest)


def progress_bar(shown: bool = True) -> Progress:
    """A bar with the time left; lines where the output is no terminal, and nothing if not shown."""
    kind = Lines if shown and not console().is_terminal else Progress
    return kind(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console(),
        auto_refresh=kind is Progress,  # else `track` counts in a thread, once at the end
        disable=not (shown and console().is_terminal),
    )
