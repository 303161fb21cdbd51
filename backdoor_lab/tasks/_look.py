"""A task that only looks at what runs have left: it has no parts, no data and no record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path


class Look(ABC):
    """What its yaml states as `facts: {looks: true}`, so that nothing is built for it."""

    @abstractmethod
    def look(self, outputs: Path) -> None:
        """Say what there is below `paths.outputs`."""
