"""A victim in a folder: safetensors and JSON, no pickle, nothing that could be executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from backdoor_lab.attacks import Attack
from backdoor_lab.models import Classifier
from backdoor_lab.tensors import plain
from backdoor_lab.victims._base import Victim

CARD = "victim.json"


def save_victim(
    folder: Path, model: Classifier, attack: Attack, poisoned: Tensor, card: dict[str, Any]
) -> None:
    """Write `model.safetensors`, `trigger.safetensors`, `poisoned.safetensors`, `victim.json`."""
    save_file(plain(model.state_dict()), folder / "model.safetensors")
    save_file(plain(attack.state_dict()), folder / "trigger.safetensors")
    save_file({"positions": poisoned.cpu().contiguous()}, folder / "poisoned.safetensors")
    (folder / CARD).write_text(json.dumps(card, indent=2, default=str))


def load_victim(folder: Path, model: Classifier, attack: Attack, cached: bool) -> Victim:
    """Fill `model` and `attack` with the tensors of `folder`."""
    model.load_state_dict(load_file(folder / "model.safetensors"))
    attack.load_state_dict(load_file(folder / "trigger.safetensors"))
    poisoned = load_file(folder / "poisoned.safetensors")["positions"]
    card = json.loads((folder / CARD).read_text())
    attack.details = card.get("details", {})
    seconds = float(card["seconds"])
    return Victim(model.eval(), attack, poisoned, folder.name, seconds, cached, folder=folder)
