"""Short names for long things."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from backdoor_lab.model_folder import files_of

PART = 2**20  # bytes that are read at once
SAMPLE = 1000  # files of a folder whose bytes are looked at


def digest(value: Any) -> str:
    """Eight hexadecimal digits of a canonical JSON."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def checksum(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def folder_digest(folder: str) -> str:
    """A digest of the names and sizes of all files below, and of the bytes of some of them."""
    root = Path(folder)
    return digest_of(root, sorted(path for path in root.rglob("*") if path.is_file()))


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
