"""Folders made once per content hash: locked, whole or absent, checked when found."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from backdoor_lab.callbacks.resume import Resume
from backdoor_lab.configuration import digest

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"


class Store:
    """Artifacts under `root`, a folder `<name>-<hash of key>` each."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def obtain(
        self, name: str, key: dict[str, Any], make: Callable[[Path], None]
    ) -> tuple[Path, bool]:
        """The folder of an artifact, and whether it was there already.

        Two processes that ask at once make it once: the second waits. `make(folder)` fills a
        `.partial` folder, which keeps its files when it is interrupted so that it may resume, and
        which takes its final name only when it is whole.
        """
        folder = self.root / f"{name}-{digest(key)}"
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f"{folder.name}.lock")):
            if folder.exists():
                if intact(folder):
                    return folder, True
                log.warning("%s is damaged: made anew", folder)
                shutil.rmtree(folder)
            partial = folder.with_name(f"{folder.name}.partial")
            partial.mkdir(exist_ok=True)
            make(partial)
            (partial / Resume.FILE).unlink(missing_ok=True)
            seal(partial)
            partial.replace(folder)
        return folder, False


def locked(file: Path) -> FileLock:
    """The lock on `file`, held; says so when it has to wait."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        log.info("another process is making %s; waiting for it", file.stem)
        lock.acquire()
    return lock


def seal(folder: Path) -> None:
    """Write the manifest: the SHA-256 of every file."""
    sums = {file.name: checksum(file) for file in sorted(folder.iterdir()) if file.is_file()}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=2))


def intact(folder: Path) -> bool:
    """Whether every file of the manifest is there, unchanged."""
    try:
        sums = json.loads((folder / MANIFEST).read_text())
        return all(checksum(folder / Path(name).name) == known for name, known in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def checksum(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def plain(state: dict[str, Any]) -> dict[str, Tensor]:
    """Contiguous CPU copies, as safetensors wants them."""
    return {
        name: value.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
