"""Files that are there whole or not at all, whoever else writes them at the same time."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def gathered(folder: Path) -> Iterator[Path]:
    """A folder beside, whose files move to `folder` when all of them are written."""
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as beside:
        yield Path(beside)
        for file in Path(beside).iterdir():
            file.replace(folder / file.name)


def write_whole(file: Path, text: str) -> None:
    """Write `text` beside `file`, then give it its name; missing folders are made.

    Raises:
        OSError: it cannot be written; what was there before is as it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        partial.write_text(text)
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
