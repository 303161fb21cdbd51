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
    """Around a whole run: SIGTERM ends it with code 143, Ctrl-C with 130; nothing is left half."""

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(_said(signal.SIGINT)) from None
    except SystemExit as end:
        if end.code == 128 + signal.SIGTERM:
            _said(signal.SIGTERM)
        raise


def _said(number: signal.Signals) -> int:
    log.error("ended by %s; the same command goes on where this one stopped", number.name)
    return 128 + number
