"""Small answers that take long to find: a JSON file each, found by what was asked."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from backdoor_lab.store.whole import write_whole


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
        text = json.dumps({"asked": asked, "answer": answer}, default=str)
        with suppress(OSError):
            write_whole(self._file(kind, asked), text)

    def _file(self, kind: str, asked: dict[str, Any]) -> Path:
        text = json.dumps(asked, sort_keys=True, default=str)
        return self.root / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
