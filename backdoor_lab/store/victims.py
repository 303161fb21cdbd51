"""A victim in a folder: safetensors and JSON, no pickle, nothing that could be executed."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import backdoor_lab.training
from backdoor_lab.attacks import Attack
from backdoor_lab.configuration import versions
from backdoor_lab.datasets import Data
from backdoor_lab.models import ModelFactory
from backdoor_lab.store.artifacts import Store
from backdoor_lab.training import Engine


@dataclass(frozen=True)
class Victim:
    """A trained classifier, the attack that answers for its trigger, and what was poisoned.

    `poisoned` (P,) are positions in the training split; `seconds` is what the training took.
    """

    model: nn.Module
    attack: Attack
    poisoned: Tensor
    folder: Path
    seconds: float
    cached: bool


def obtain_victim(
    store: Store,
    name: str,
    identity: dict[str, Any],
    data: Data,
    factory: ModelFactory,
    attack: Attack,
    engine: Engine,
) -> Victim:
    """The victim that `identity` describes, trained now or long ago; `attack` is attached."""
    key = {**identity, "data": data.fingerprint, "code": code_digest(attack)}
    model = factory.build(data.spec, attack.seed)

    def make(folder: Path) -> None:
        start = time.perf_counter()
        poisoned = attack.train_victim(model, data.train, engine, folder)
        card = {
            "made_from": key,
            "classes": data.spec.classes,
            "seconds": time.perf_counter() - start,
            "versions": versions(),
        }
        save_victim(folder, model, attack, poisoned, card)

    folder, cached = store.obtain(name, key, make)
    return load_victim(folder, model, attack, cached)


def save_victim(
    folder: Path, model: nn.Module, attack: Attack, poisoned: Tensor, card: dict[str, Any]
) -> None:
    """Write `model.safetensors`, `trigger.safetensors`, `poisoned.safetensors`, `victim.json`."""
    save_file(plain(model.state_dict()), folder / "model.safetensors")
    save_file(plain(attack.state_dict()), folder / "trigger.safetensors")
    save_file({"positions": poisoned.cpu().contiguous()}, folder / "poisoned.safetensors")
    (folder / "victim.json").write_text(json.dumps(card, indent=2, default=str))


def load_victim(folder: Path, model: nn.Module, attack: Attack, cached: bool) -> Victim:
    """Fill `model` and `attack` with the tensors of `folder`."""
    model.load_state_dict(load_file(folder / "model.safetensors"))
    attack.load_state_dict(load_file(folder / "trigger.safetensors"))
    poisoned = load_file(folder / "poisoned.safetensors")["positions"]
    card = json.loads((folder / "victim.json").read_text())
    return Victim(model.eval(), attack, poisoned, folder, float(card["seconds"]), cached)


def plain(state: dict[str, Any]) -> dict[str, Tensor]:
    """Contiguous CPU copies, as safetensors wants them."""
    return {
        name: value.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }


def code_digest(attack: Attack) -> str:
    """A digest of the code that makes a victim: a mended attack must not find its old ones."""
    files = set(Path(backdoor_lab.training.__file__).parent.glob("*.py"))
    for kind in type(attack).__mro__:
        if kind.__module__.startswith("backdoor_lab."):
            files.add(Path(inspect.getfile(kind)))
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
