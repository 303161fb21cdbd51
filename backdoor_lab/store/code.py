"""Which code made an artifact: a mended attack must not find its old ones."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

import backdoor_lab.training

METHODS = tuple(
    f"backdoor_lab.{part}"
    for part in (
        "attacks.", "aux_data.", "calibration.", "callbacks.", "datasets._images", "defenses.",
        "models.", "seeds",
    )
)  # fmt: skip


def code_digest(*makers: object) -> str:
    """A digest of the files behind attacks, models and others, of what they use, of the training.

    Of an `nn.Module` all sub-modules count.
    """
    files = set(Path(str(backdoor_lab.training.__file__)).parent.glob("*.py"))
    seen: set[str] = set()
    for maker in makers:
        for part in maker.modules() if isinstance(maker, nn.Module) else [maker]:
            for kind in type(part).__mro__:
                files |= sources(sys.modules[kind.__module__], seen)
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def sources(module: ModuleType, seen: set[str]) -> set[Path]:
    """The files of a method's `module` and of all methods' modules that it imports from."""
    if not module.__name__.startswith(METHODS) or module.__name__ in seen:
        return set()
    seen.add(module.__name__)
    found = {Path(str(module.__file__))}
    for value in vars(module).values():
        owner = value.__name__ if isinstance(value, ModuleType) else _home(value)
        if owner in sys.modules:
            found |= sources(sys.modules[owner], seen)
    return found


def _home(value: object) -> str:
    home = getattr(value, "__module__", None)
    return home if isinstance(home, str) else ""
