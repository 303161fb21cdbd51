"""How a run that is asked to end ends: with a word, and an exit code that schedulers understand."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)


@contextmanager
def told_to_end() -> Iterator[None]:
    """Around a whole run: SIGTERM ends it with code 143, Ctrl-C with 130; nothing is left half.

    Ctrl-C raises SystemExit, too: of a KeyboardInterrupt Lightning would make exit code 1.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    known = {128 + number: number for number in (signal.SIGTERM, signal.SIGINT)}
    for number in known.values():
        signal.signal(number, leave)
    try:
        yield
    except SystemExit as end:
        if isinstance(end.code, int) and end.code in known:
            name = known[end.code].name
            log.error("ended by %s; the same command goes on where this one stopped", name)
        raise
