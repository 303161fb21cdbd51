"""Who is at work in a run's folder: one process at a time, on whichever machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)
LOCK = "run.lock"


class Busy(Exception):  # noqa: N818  # no error: the run is in good hands
    """Another process makes this run now; it is not waited for here."""


@contextmanager
def claimed(folder: Path, patient: bool) -> Iterator[None]:
    """Hold the lock of a run's folder; the system frees it when its owner dies.

    Args:
        folder: of the run.
        patient: wait for another owner, and say so.

    Raises:
        Busy: there is another owner, and no patience.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not patient:
            raise Busy(str(folder)) from None
        log.info("another process makes %s; waiting for it", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_claimed(folder: Path) -> bool:
    """Whether a living process holds the lock of a run's folder."""
    try:
        with claimed(folder, patient=False):
            return False
    except Busy:
        return True
