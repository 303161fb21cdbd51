"""What launchers share: which victim a cell needs, and what Hydra is told of those that ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from backdoor_lab.run.folders import config_dir
from backdoor_lab.run.ledger import grid_file, victims
from backdoor_lab.run.pool import Work
from backdoor_lab.store.locks import Busy


def works(config: DictConfig, cells: Sequence[Sequence[str]], first: int) -> list[Work]:
    """The cells of a grid as a child is told them, from `first`; its file tells their victims."""
    made_by = victims(grid_file(config))
    own = tuple(config_dir(config.hydra))
    numbered = enumerate(map(tuple, cells), start=first)
    return [Work(number, own + cell, made_by.get(cell, str(number))) for number, cell in numbered]


def endings(cells: Sequence[Work], busy: Collection[int]) -> list[JobReturn]:
    """Ended, well or not, as their records tell; or left to another process, by number."""
    told = []
    for cell in cells:
        one = JobReturn(overrides=list(cell.overrides), status=JobStatus.COMPLETED)
        one.return_value = Busy() if cell.number in busy else None
        told.append(one)
    return told
