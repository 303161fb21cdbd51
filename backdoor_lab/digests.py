"""Short names for long things."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from backdoor_lab.model_folder import files_of

PART = 2**20  # bytes that are read at once
SAMPLE = 1000  # files of a folder whose bytes are looked at


def digest(value: Any, digits: int = 8) -> str:
    """The first hexadecimal digits of the SHA-256 of a canonical JSON."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def checksum(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """All below that is no folder, behind links too, sorted; what cannot be listed is empty.

    Args:
        folder: where to look.
        above: real paths of the folders around it, which a link may lead back to.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    _, folders, files = next(os.walk(folder), ("", [], []))
    inner = set(folders)
    for name in sorted([*folders, *files]):
        if name in inner:
            yield from files_below(folder / name, (*above, real))
        else:
            yield folder / name


@cache
def folder_digest(folder: str) -> str:
    """A digest of the names and sizes of all files below, and of the bytes of some of them."""
    root = Path(folder)
    return digest_of(root, [file for file in files_below(root) if file.is_file()])


@cache
def model_digest(folder: str) -> str:
    """The same of the files of a folder that are read as a model."""
    return digest_of(Path(folder), files_of(Path(folder)))


def digest_of(root: Path, files: Sequence[Path]) -> str:
    """Of the names and sizes of files below `root`, and of the bytes of some of them."""
    found = hashlib.sha256()
    for file in files:
        line = f"{file.relative_to(root)}\0{file.stat().st_size}\n"
        found.update(line.encode(errors="surrogateescape"))
    for file in files[:: max(1, len(files) // SAMPLE)]:
        with file.open("rb") as stream:
            while part := stream.read(PART):
                found.update(part)
    return found.hexdigest()


def state_below(path: Path) -> str:
    """A digest of names, sizes and times of the files at or below `path`, none of which is read."""
    found = hashlib.sha256()
    for file in [path] if path.is_file() else files_below(path):
        with suppress(OSError):  # a link to nowhere
            facts = file.stat()
            line = f"{file}\0{facts.st_size}\0{facts.st_mtime_ns}\n"
            found.update(line.encode(errors="surrogateescape"))
    return found.hexdigest()
