"""Folders made once per content hash: locked, whole or absent, checked when found."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backdoor_lab.digests import checksum, digest
from backdoor_lab.store.locks import locked

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
DIGITS = 16  # of the key's hash, in the name of a folder: no two of many thousands agree
RESUME = "resume.ckpt"  # of a training that was interrupted; no part of what is made


class Store:
    """Victims, artifacts and decoded data under `root`, a folder `<name>-<hash of key>` each."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str, key: dict[str, Any]) -> Path:
        """Where an artifact lies, once it is made."""
        return self.root / f"{name}-{digest(key, DIGITS)}"

    def make_once(
        self,
        name: str,
        key: dict[str, Any],
        make: Callable[[Path], None],
        replaces: bool = False,
    ) -> tuple[Path, bool]:
        """The folder of an artifact, and whether it was there already.

        Two processes that ask at once make it once: the second waits. `make(folder)` fills a
        `.partial` folder, which keeps its files when it is interrupted so that it may resume, and
        which takes its final name only when it is whole.

        Args:
            name: what it is called.
            key: all that it is made from.
            make: fills a folder.
            replaces: what was made under this name from another key goes.
        """
        folder = self.folder(name, key)
        self.root.mkdir(parents=True, exist_ok=True)
        lock = name if replaces else folder.name
        with locked(self.root / f"{lock}.lock", lock):
            if found(folder):
                return folder, True
            partial = folder.with_name(f"{folder.name}.partial")
            clear_unless_folder(partial)
            partial.mkdir(exist_ok=True)
            make(partial)
            (partial / RESUME).unlink(missing_ok=True)
            seal(partial)
            partial.replace(folder)
            for older in self.root.glob(f"{name}-*") if replaces else ():
                if older != folder and older.name.removeprefix(f"{name}-").isalnum():
                    shutil.rmtree(older, ignore_errors=True)
        return folder, False

    def newest(self, name: str) -> Path | None:
        """The whole folder that was made last under `name`, from whichever key."""
        there = self.root.glob(f"{name}-{'?' * DIGITS}")
        newest = sorted(there, key=lambda folder: folder.stat().st_mtime, reverse=True)
        return next(filter(intact, newest), None)


def found(folder: Path) -> bool:
    """Whether `folder` is there and whole; what is not is set aside, and said.

    Raises:
        OSError: the disk does not let us tell.
    """
    if not folder.exists():
        return False
    if intact(folder):
        return True
    aside = folder.with_name(f"{folder.name}.damaged")
    log.warning("%s is damaged: made anew, and kept as %s", folder, aside.name)
    clear_unless_folder(aside)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    return False


def clear_unless_folder(path: Path) -> None:
    """Remove a file, or a link, that stands where a folder should be."""
    if path.is_symlink() or path.is_file():
        path.unlink()


def seal(folder: Path) -> None:
    """Write the manifest: the SHA-256 of every file."""
    sums = {file.name: checksum(file) for file in sorted(folder.iterdir()) if file.is_file()}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=2))


def sealed(folder: Path) -> list[Path]:
    """The files of a whole folder that its manifest lists: any other came there by another hand."""
    return [folder / name for name in json.loads((folder / MANIFEST).read_text())]


def intact(folder: Path) -> bool:
    """Whether each file that the manifest lists is as it was.

    Raises:
        OSError: a file is there, and the disk does not let us read it: that is no damage.
    """
    try:
        sums = json.loads((folder / MANIFEST).read_text())
        listed = isinstance(sums, dict) and bool(sums)
        return listed and all(checksum(folder / name) == known for name, known in sums.items())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return False
