"""Who is at work in a run's folder: one process at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from backdoor_lab.store.locks import Busy, locked

LOCK = "run.lock"


def claimed(folder: Path, patient: bool) -> AbstractContextManager[None]:
    """Hold the lock of a run's folder.

    Args:
        folder: of the run.
        patient: wait for another owner, and say so.

    Raises:
        Busy: on entering: there is another owner, and no patience.
    """
    return locked(folder / LOCK, str(folder), patient)


def is_claimed(folder: Path) -> bool:
    """Whether a living process holds the lock of a run's folder."""
    try:
        with claimed(folder, patient=False):
            return False
    except Busy:
        return True
