"""The ways to run a grid that `launchers` compares: command lines, kills, a small SLURM."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil

from backdoor_lab.config import ROOT

CLUSTER = ROOT / "tests" / "slurm" / "cluster.sh"
ON_SLURM = ["timeout_min=60", "cpus_per_task=1", "gpus_per_node=null", "gres=gpu:1", "poll_s=1"]


@dataclass(frozen=True)
class Way:
    """How a grid is run: what the command line says, and whether children are killed."""

    name: str
    arguments: Sequence[str]
    at_once: int
    kills: int = 0
    lacks: Callable[[], str | None] = lambda: None


def ways(cores: int) -> list[Way]:
    """All of them; one that lacks something here says what."""
    slurm = ["hydra/launcher=slurm", *(f"hydra.launcher.{setting}" for setting in ON_SLURM)]
    return [
        Way("in process", ["hydra/launcher=basic"], 1),
        Way("pool", ["hydra/launcher=pool"], cores),
        Way("pool, killed", ["hydra/launcher=pool"], cores, kills=5),
        Way("slurm", slurm, min(cores, 2), lacks=no_slurm),
        Way("ray", ["hydra/launcher=ray"], cores, lacks=lambda: no_package("ray")),
    ]


def no_package(name: str) -> str | None:
    return None if find_spec(name) else f"the package {name}"


def no_slurm() -> str | None:
    here = shutil.which("slurmctld") and hasattr(os, "getuid") and not os.getuid()
    return no_package("submitit") if here else "Debian's slurmctld, or root"


def timed(command: list[str], environment: dict[str, str], kills: int) -> tuple[float, int]:
    """Wall seconds of a command, and how many of its children were killed: at most `kills`."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment})
    struck: set[str] = set()
    while process.poll() is None:
        time.sleep(0.2)
        if len(struck) < kills:
            kill_one(psutil.Process(process.pid), struck)
    return time.perf_counter() - start, len(struck)


def kill_one(launcher: psutil.Process, struck: set[str]) -> None:
    """Kill a cell's process that has worked for some seconds, if that cell was not struck before.

    The pool's children are copied from a server: they stand below it, and the file that a child
    writes to tells its cell.
    """
    for child in launcher.children(recursive=True):
        try:
            logs = {file.path for file in child.open_files() if "/grids/" in file.path}
            worked = sum(child.cpu_times()[:2])
        except psutil.Error:  # it has ended meanwhile
            continue
        if logs and logs.isdisjoint(struck) and worked > 5 + len(struck):
            child.kill()
            struck |= logs
            return


@contextmanager
def cluster(folder: Path, way: Way) -> Iterator[dict[str, str]]:
    """The environment of a way; for SLURM a small one is started."""
    own = {"OMP_NUM_THREADS": "1"}
    if way.name != "slurm":
        yield own
        return
    start = [str(CLUSTER), "start", str(folder)]
    conf = subprocess.run(start, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    try:
        yield {**own, "SLURM_CONF": conf}
    finally:
        subprocess.run([str(CLUSTER), "stop", str(folder)], check=True)
