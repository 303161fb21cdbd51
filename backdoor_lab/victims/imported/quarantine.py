"""A child process in which a stranger's file is read: little memory, little time, plain answers.

What comes back is JSON. A reader that crashes, hangs or wants too much takes nothing with it.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from backdoor_lab.model_folder import size_of
from backdoor_lab.victims.imported.foreign import Refused

log = logging.getLogger(__name__)
ROOM = 2**30  # bytes beside those that a file of its size takes
LARGEST = 8 * 2**30  # bytes of a file, beyond which it gets no more room and no more time
COPIES = 6  # of the file: mapped, in single precision, and on its way into another
SECONDS, BYTES_A_SECOND = 8, 20 * 2**20  # of a processor; on a busy machine they last longer
PATIENCE = 6  # seconds of the wall for one of a processor
ANSWER = 64 * 2**20  # bytes at most
CANNOT = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError,
    MemoryError, OSError, RecursionError, RuntimeError, SafetensorError, TypeError,
    UnpicklingError, ValueError, struct.error,
)  # fmt: skip
Work = Callable[..., dict[str, Any]]


def quarantined(work: Work, path: Path, *arguments: Any) -> dict[str, Any]:
    """What `work(path, *arguments)` answers in a child process.

    Raises:
        Refused: it said so, or came to no end.
    """
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(sender, work, path, arguments), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child.start()
    sender.close()
    seconds = seconds_for(path)
    try:
        if not receiver.poll(PATIENCE * seconds):
            raise Refused(f"takes more than {PATIENCE * seconds} s to read")
        answer = json.loads(receiver.recv_bytes(ANSWER))
    except (EOFError, OSError):
        child.join(1)
        if child.exitcode == -signal.SIGXCPU:
            raise Refused(f"takes more than {seconds} s of a processor to read") from None
        raise Refused(f"makes its reader crash ({_ending(child.exitcode)})") from None
    finally:
        receiver.close()
        child.kill()
        child.join()
    if "refused" in answer:
        raise Refused(answer["refused"], answer["lines"])
    found: dict[str, Any] = answer["done"]
    return found


def seconds_for(path: Path) -> int:
    """What a file of its size may take of a processor."""
    return SECONDS + counted(path) // BYTES_A_SECOND


def room_for(path: Path) -> int:
    """What a file of its size may take of memory, in bytes."""
    return ROOM + COPIES * counted(path)


def counted(path: Path) -> int:
    """The size of a file by which room and time are given."""
    return min(size_of(path), LARGEST)


def _answer(sender: Connection, work: Work, path: Path, arguments: tuple[Any, ...]) -> None:
    """In the child: work, and send what came of it."""
    _confine(path)
    try:
        answer: dict[str, Any] = {"done": work(path, *arguments)}
    except Refused as refused:
        answer = {"refused": str(refused), "lines": refused.lines}
    except CANNOT as error:
        first = ascii(str(error).partition("\n")[0])[1:-1][:160]
        answer = {"refused": f"cannot be read ({type(error).__name__}: {first})", "lines": ()}
    sender.send_bytes(json.dumps(answer).encode())
    sender.close()


def _confine(path: Path) -> None:
    """Bound this process's memory, silence it, and let a crash leave nothing."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    logging.disable()
    torch.set_num_threads(1)  # threads of the parent are not here
    with suppress(ImportError, OSError, ValueError):  # such bounds are not everywhere
        import resource

        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = held + room_for(path)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        seconds = seconds_for(path)  # a new process has used none
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def _ending(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
