"""What this machine has, known without torch, and how a grid is best run on it."""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path


def cores_here() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # which not every system has
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that children may use: those of CUDA_VISIBLE_DEVICES up to a -1, or all."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is not None:
        named = (name.strip() for name in asked.split(","))
        return [name for name in takewhile("-1".__ne__, named) if name]
    return [str(number) for number, _ in enumerate(gpu_files())]


def gpu_files() -> list[str]:
    """What stands for the GPUs of this machine below /dev."""
    return sorted(file.name for file in Path("/dev").glob("nvidia[0-9]*"))


def launcher_here() -> str:
    """The launcher of a grid that names none: the pool where it has several GPUs to fill.

    On one GPU, or on a CPU whose cores one process keeps busy with threads, cells run in this
    process: children would take as long and have to be started besides.
    """
    return "pool" if len(visible_gpus()) > 1 else "basic"
