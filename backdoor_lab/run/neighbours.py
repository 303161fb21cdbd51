"""Other runs on the same cores: threads that outnumber cores wait for each other."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import psutil
import torch

from backdoor_lab.config.hardware import cores_here

log = logging.getLogger(__name__)
SCRIPT = "run.py"


def warn_of_crowd() -> None:
    """Say so where the threads of all runs of this user are more than the cores."""
    runs, threads, cores = 1 + others(), torch.get_num_threads(), cores_here()
    if runs > 1 and runs * threads > cores:
        fitting = max(1, cores // runs)
        fewer = f"trainer.threads={fitting} suits them"
        log.warning(
            "%d runs with %d thread(s) each share %d core(s), which can cost most of the speed: %s",
            runs, threads, cores, fewer if fitting < threads else "there are more runs than cores",
        )  # fmt: skip


def others() -> int:
    """How many other runs of this user there are; workers and the grid above do not count."""
    found = {}
    for process in psutil.process_iter(["pid", "ppid", "uids", "cmdline"]):
        facts = process.info
        mine = facts["uids"] is not None and facts["uids"].real == os.getuid()
        words = facts["cmdline"] or []
        if mine and "python" in "".join(words[:1]) and SCRIPT in map(_name, words[1:3]):
            found[facts["pid"]] = facts["ppid"]
    for process in [psutil.Process(), *psutil.Process().parents()]:
        found.pop(process.pid, None)
    return sum(parent not in found and parent != os.getpid() for parent in found.values())


def _name(word: str) -> str:
    return Path(word).name
