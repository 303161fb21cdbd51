"""Small answers that take long to find: a JSON file each, found by what was asked."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


class Notes:
    """Notes in `root/notes`; one that cannot be read or written is as good as none."""

    def __init__(self, root: Path) -> None:
        self.root = root / "notes"

    def read(self, kind: str, asked: dict[str, Any]) -> Any:
        """The answer, or None."""
        try:
            note = json.loads(self._file(kind, asked).read_text())
            return note["answer"]
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, kind: str, asked: dict[str, Any], answer: Any) -> None:
        """Keep an answer, whole or not at all."""
        file = self._file(kind, asked)
        partial = file.with_name(f"{file.name}.{os.getpid()}")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps({"asked": asked, "answer": answer}, default=str))
            os.replace(partial, file)
        except OSError:
            partial.unlink(missing_ok=True)

    def _file(self, kind: str, asked: dict[str, Any]) -> Path:
        text = json.dumps(asked, sort_keys=True, default=str)
        return self.root / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
