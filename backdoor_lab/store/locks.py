"""A lock that is a file: the system frees it when its owner dies, on whichever machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)


class Busy(Exception):  # noqa: N818  # no error: the work is in good hands
    """Another process is at work here; it is not waited for."""


@contextmanager
def locked(file: Path, what: str, patient: bool = True) -> Iterator[None]:
    """Hold the lock on `file`.

    Args:
        file: made where it is not there.
        what: is made under the lock, for the line that says whom we wait for.
        patient: wait for another owner.

    Raises:
        Busy: there is another owner, and no patience.
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=1 if patient else 0)
    except Timeout:
        if not patient:
            raise Busy(what) from None
        log.info("another process is making %s; waiting for it", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
