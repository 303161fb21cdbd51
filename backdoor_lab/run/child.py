"""A cell in a process of its own, copied from one that has loaded torch but touched no device."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

CELL = "BACKDOOR_LAB_CELL"  # set in a child: it says in its folder why it failed
BUSY = 75  # the exit code of a child whose run another process makes
LOADED = ["backdoor_lab.run.preloaded"]


def killed(code: int) -> bool:
    """Whether an exit code tells of a signal, and not of an error that would come again."""
    return code < 0 or code > 128


def nursery(script: Path, shared: Mapping[str, str]) -> ForkServerContext | SpawnContext:
    """What starts children: a server that loads torch once and is copied for each of them.

    Where the system cannot copy a process, each child loads everything itself.

    Args:
        script: what they run.
        shared: the environment of all, which libraries read as they load.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    paths = [str(script.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ.update(shared, PYTHONPATH=os.pathsep.join(paths))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context


def run_cell(script: Path, overrides: Sequence[str], place: Mapping[str, str], said: Path) -> None:
    """Be `python <script> <overrides>`, which Ctrl-C reaches through the grid alone.

    Args:
        script: whose exit code becomes this process's.
        overrides: the arguments.
        place: its environment, set before CUDA starts.
        said: the file that what it says is added to.
    """
    if hasattr(os, "setsid"):
        os.setsid()
    with said.open("ab") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    os.environ.update(place, **{CELL: "1"})
    sys.argv = [str(script), *overrides]
    runpy.run_path(str(script), run_name="__main__")
