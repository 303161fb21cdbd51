"""How far a grid has come: a live line on a terminal, a line for each cell elsewhere."""

from __future__ import annotations

import logging
from types import TracebackType

from backdoor_lab.console import console, progress_bar, say

log = logging.getLogger(__name__)


class View:
    """Counts cells: done, running, failed; the time left follows from those that ended.

    Args:
        total: cells that the grid runs.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.count = {"done": 0, "running": 0, "failed": 0, "elsewhere": 0}
        self.bar = progress_bar()
        self.task = self.bar.add_task("", total=total, told=self.told)

    def __enter__(self) -> View:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def told(self) -> str:
        """Such as `12 done, 2 running, 1 failed`."""
        return ", ".join(f"{number} {word}" for word, number in self.count.items() if number)

    def running(self, number: int) -> None:
        """So many run now."""
        if number != self.count["running"]:
            self.count["running"] = number
            self.bar.update(self.task, description=self.told())

    def done(self, cell: object) -> None:
        """A cell ended well."""
        self._ended("done")
        self._say(logging.INFO, f"done: {cell}")

    def failed(self, cell: object, code: int) -> None:
        """A cell ended, and not well."""
        self._ended("failed")
        self._say(logging.ERROR, f"failed (exit code {code}): {cell}")

    def again(self, cell: object, code: int) -> None:
        """A cell's process was killed; another one tries."""
        self._say(logging.ERROR, f"tried again (exit code {code}): {cell}")

    def left(self, cell: object) -> None:
        """A cell was left to the process that runs it already."""
        self._ended("elsewhere")
        self._say(logging.INFO, f"run by another process: {cell}")

    def _ended(self, word: str) -> None:
        self.count[word] += 1
        self.bar.advance(self.task)
        self.bar.update(self.task, description=self.told())

    def _say(self, level: int, line: str) -> None:
        """Above the live line, where logging would write over it, or as a line of the log."""
        if console().is_terminal:
            say([line])
        else:
            log.log(level, line)
