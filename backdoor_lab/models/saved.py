"""A purified model in a folder: its weights, and beside them its card as text."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from backdoor_lab.models.classifier import Classifier
from backdoor_lab.tensors import plain

WEIGHTS, CARD = "purified.safetensors", "purified.json"


def save_purified(folder: Path, model: Classifier) -> None:
    """Write weights and card of `model` into `folder`."""
    save_file(plain(model.state_dict()), folder / WEIGHTS)
    (folder / CARD).write_text(json.dumps(model.card(), indent=2))


def load_purified(folder: Path) -> Classifier:
    """The model that `save_purified` wrote, in eval mode on the CPU; nothing in it is executed.

    Raises:
        ValueError: the card is not one, or its model does not have these weights.
    """
    try:
        model = Classifier.of(json.loads((folder / CARD).read_text()))
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (RecursionError, RuntimeError) as error:
        raise ValueError(f"{folder} holds no purified model: {error}") from None
    return model.eval()
