"""What every task offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from backdoor_lab.errors import ConfigError, spelled
from backdoor_lab.records import Record

if TYPE_CHECKING:
    from backdoor_lab.run.job import Job
    from backdoor_lab.run.parts import Parts


class Task(ABC):
    """A story that is told with the parts of a run."""

    def check(self, parts: Parts) -> None:
        """Refuse combinations that the task has no use for, before data loads.

        Raises:
            ConfigError: names the key, what was given and what is allowed.
        """
        if parts.export is not None and parts.export.task != spelled(self):
            raise ConfigError(
                f"export={spelled(parts.export)}, but task={spelled(self)} does not write that; "
                f"allowed: task={parts.export.task}, or export=null"
            )

    @abstractmethod
    def run(self, job: Job) -> Record:
        """Do it, and say what came of it."""

    def complete(self, job: Job, record: Record) -> Record:
        """Add the files that a finished run lacks; where that is no less work, do it again."""
        del record
        return self.run(job)
