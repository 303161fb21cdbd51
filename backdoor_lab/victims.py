"""A victim in a folder: safetensors and JSON, no pickle, nothing that could be executed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backdoor_lab.attacks import Attack
from backdoor_lab.attacks.none import NoAttack
from backdoor_lab.configuration import versions
from backdoor_lab.store import CleanModel, Workshop, code_digest, plain


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


def obtain_victim(shop: Workshop, attack: Attack, choice: dict[str, Any] | None = None) -> Victim:
    """The victim of `attack`, which is attached, trained now or long ago.

    `choice` is the resolved config that the attack was built from; None: the one of the run.
    """
    choice = choice or shop.identity["attack"]
    key = {**shop.identity, "attack": choice, "data": shop.data.fingerprint}
    model = shop.factory.build(shop.data.spec, attack.seed)
    key["code"] = code_digest(attack, model)

    def make(folder: Path) -> None:
        start = time.perf_counter()
        poisoned = attack.train_victim(model, shop, folder)
        card = {
            "made_from": key,
            "classes": shop.data.spec.classes,
            "seconds": time.perf_counter() - start,
            "details": attack.details,
            "versions": versions(),
        }
        save_victim(folder, model, attack, poisoned, card)

    name = choice["_target_"].split(".")[-2]
    folder, cached = shop.store.obtain(f"{shop.name}-{name}", key, make)
    return load_victim(folder, model, attack.to(shop.engine.device), cached)


def clean_model(shop: Workshop) -> CleanModel:
    """What `attack=none` makes of the same data, model, recipe and seed."""
    attack = NoAttack()
    attack.attach(shop.data.spec, shop.recipe, shop.seed)
    choice = {"_target_": f"{NoAttack.__module__}.{NoAttack.__name__}"}
    victim = obtain_victim(shop, attack, choice)
    return CleanModel(victim.model, victim.folder.name)


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
    attack.details = card.get("details", {})
    return Victim(model.eval(), attack, poisoned, folder, float(card["seconds"]), cached)
