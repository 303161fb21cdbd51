"""What every tracker offers: a run that is always finished, also by an exception."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Self

from lightning.pytorch.loggers import Logger


class Ending(Enum):
    """How a run came to its end, if it did."""

    WELL = auto()
    FAILED = auto()
    STOPPED = auto()

    @property
    def exit_code(self) -> int:
        """As a process tells it: 0 for a run that ended well."""
        return int(self is not Ending.WELL)


@dataclass(frozen=True)
class RunInfo:
    """What a run is called, what it belongs to, and where its files lie."""

    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    folder: Path


class Tracker(ABC):
    """Follows one run at a time, between the two ends of `with tracker.run(...)`."""

    @contextmanager
    def run(
        self,
        name: str,
        group: str,
        job_type: str,
        tags: Sequence[str],
        config: Mapping[str, Any],
        folder: Path,
    ) -> Iterator[Self]:
        """Open a run; it is finished on the way out, as failed where an exception passes.

        One that a signal or Ctrl-C stops has not ended: the same command goes on with it.
        """
        self._open(RunInfo(name, group, job_type, tuple(tags), config, folder))
        ending = Ending.STOPPED
        try:
            yield self
            ending = Ending.WELL
        except Exception:
            ending = Ending.FAILED
            raise
        finally:
            self._close(ending)

    @property
    @abstractmethod
    def lightning_logger(self) -> Logger | None:
        """What a Lightning Trainer logs to, or None where nothing is kept."""

    @abstractmethod
    def summary(self, values: Mapping[str, Any]) -> None:
        """Keep final numbers; nested names are joined by `/`."""

    @abstractmethod
    def images(self, pictures: Mapping[str, Path]) -> None:
        """Show picture files, by name."""

    @abstractmethod
    def _open(self, info: RunInfo) -> None:
        """Start a run."""

    @abstractmethod
    def _close(self, ending: Ending) -> None:
        """Finish it."""


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One level of names: ``{"purified": {"acc": 0.9}}`` -> ``{"purified/acc": 0.9}``."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}/")
        else:
            result[f"{prefix}{name}"] = value
    return result
