"""How the process ends: a refusal is one sentence, a signal one line and its own exit code."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from backdoor_lab.errors import ConfigError

log = logging.getLogger(__name__)
NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # not every system has the last
SIGNALS = tuple(signal.Signals[name] for name in NAMES if hasattr(signal, name))
farewells: list[Callable[[], object]] = []  # what is still said when a signal ends the process


class Stopped(SystemExit):
    """Raised where a signal finds the process; Lightning lets it pass, as it would not Ctrl-C's."""


@contextmanager
def ending_well() -> Iterator[None]:
    """Around the whole process."""
    caught: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        for one in SIGNALS:
            signal.signal(one, signal.SIG_DFL)  # a second one does not wait
        raise Stopped(128 + number)

    for number in SIGNALS:
        if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:  # nohup's
            signal.signal(number, stop)
    try:
        yield
    except ConfigError as error:
        sys.exit(str(error))
    except SystemExit:
        if not caught:
            raise
    if caught:  # whatever became of the exception on its way here
        say_goodbye(signal.Signals(caught[0]))
        sys.exit(128 + caught[0])


def say_goodbye(number: signal.Signals) -> None:
    """One line, after what others have to say."""
    message = f"stopped by {number.name}: the same command goes on from what is done"
    with suppress(OSError):  # a terminal that was closed takes no words
        for farewell in farewells:
            farewell()
        sys.stderr.write(f"{message}\n")
