"""`result.json`: the one file that tables and pages are made from."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from backdoor_lab.configuration import versions

FILE = "result.json"


@dataclass(frozen=True)
class Names:
    """What a run is called: the chosen names, the command that repeats it, its group."""

    choices: dict[str, str]
    overrides: tuple[str, ...]
    group: str

    @property
    def title(self) -> str:
        chosen = self.choices
        return f"{chosen['attack']}-{chosen['defense']}-{chosen['aux']}"

    @property
    def maker(self) -> str:
        return "-".join(self.choices[key] for key in ("dataset", "model"))

    @property
    def tags(self) -> list[str]:
        return [f"{group}={name}" for group, name in self.choices.items()]

    @property
    def command(self) -> str:
        return " ".join(["python run.py", *self.overrides])


def write_result(folder: Path, result: dict[str, Any], names: Names) -> dict[str, Any]:
    """Write the result with versions and command, whole or not at all; returns what it wrote."""
    result = {**result, "versions": versions(), "command": names.command}
    partial = folder / f"{FILE}.partial"
    partial.write_text(json.dumps(result, indent=2, default=str))
    os.replace(partial, folder / FILE)
    return result


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result in `folder`, or None where there is none that can be read."""
    try:
        result = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and "purified" in result else None


def peak_memory_mb(device: torch.device) -> float:
    """Peak of the GPU's allocator, or what the process holds now on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return psutil.Process().memory_info().rss / 2**20
