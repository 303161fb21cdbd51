"""No tracking: the run's folder says all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backdoor_lab.tracking._base import Ending, RunInfo, Tracker


class NoTracker(Tracker):
    """Keeps nothing."""

    @property
    def lightning_logger(self) -> None:
        return None

    def summary(self, values: Mapping[str, Any]) -> None:
        return

    def images(self, pictures: Mapping[str, Path]) -> None:
        return

    def _open(self, info: RunInfo) -> None:
        return

    def _close(self, ending: Ending) -> None:
        return
