"""Which code made an artifact: a mended attack must not find its old ones."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

import backdoor_lab.training

ATTACKS = "backdoor_lab.attacks."


def code_digest(attack: nn.Module) -> str:
    """A digest of the files behind `attack`: its own, those of attacks it uses, the training's."""
    files = set(Path(str(backdoor_lab.training.__file__)).parent.glob("*.py"))
    for part in attack.modules():
        for kind in type(part).__mro__:
            files |= sources(sys.modules[kind.__module__], set())
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def sources(module: ModuleType, seen: set[str]) -> set[Path]:
    """The files of an attack's `module` and of all in `attacks/` that it imports from."""
    if not module.__name__.startswith(ATTACKS) or module.__name__ in seen:
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
