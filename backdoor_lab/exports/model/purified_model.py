"""The weights under the names that came in, and beside them a card."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backdoor_lab.attacks import Attack
from backdoor_lab.exports.model.card import card
from backdoor_lab.exports.model.graph import require_onnx, write_graph
from backdoor_lab.models import Classifier
from backdoor_lab.records import Record
from backdoor_lab.store import sealed
from backdoor_lab.tensors import plain
from backdoor_lab.validation import validated
from backdoor_lab.victims import Victim

if TYPE_CHECKING:
    from backdoor_lab.run.job import Job

PLACE = "model"
ASIDE = "aside.safetensors"
COMPANIONS = "*config.json"  # of folders as timm and Hugging Face write them


class PurifiedModel:
    """Writes `model/`: `model.safetensors`, `state_dict.pt`, `README.md`, `model.onnx` on demand.

    Args:
        onnx: whether the graph is written, too.

    Attributes:
        task: by which it is written.
    """

    task = "purify"

    @validated
    def __init__(self, onnx: bool = False) -> None:
        self.onnx = onnx

    def check(self, attack: Attack) -> None:
        """Refuse a graph where the packages that write and check it are missing."""
        del attack
        if self.onnx:
            require_onnx()

    def write(self, job: Job, record: Record, victim: Victim, purified: Classifier) -> None:
        """Write the files into the run's folder, last the card, by which they are missed."""
        folder = job.folder / PLACE
        folder.mkdir(parents=True, exist_ok=True)
        state = named(purified, victim)
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        wrapped = victim.layout.wrapped if victim.layout else None
        ordered: Any = OrderedDict(state)
        torch.save({wrapped: ordered} if wrapped else ordered, folder / "state_dict.pt")
        for file in brought(victim):
            if file.match(COMPANIONS):
                shutil.copyfile(file, folder / file.name)
        if self.onnx:
            write_graph(folder / "model.onnx", purified)
        (folder / "README.md").write_text(card(job.cfg, record, victim, purified))


def brought(victim: Victim) -> list[Path]:
    """The stored files of a victim that somebody handed over."""
    return sealed(victim.folder) if victim.folder and victim.layout else []


def named(purified: Classifier, victim: Victim) -> dict[str, Tensor]:
    """The weights of `purified` as whoever brought the victim calls and shapes them.

    A victim that was trained here has timm's names. What the file held beside the weights of the
    network comes back as it was, but for copies of its weights, which nobody has purified.
    """
    state, layout = plain(purified.net.state_dict()), victim.layout
    if layout is None:
        return state
    theirs = {
        layout.theirs(name): one.reshape(layout.shapes[name]) if name in layout.shapes else one
        for name, one in state.items()
    }
    aside = next((load_file(file) for file in brought(victim) if file.name == ASIDE), {})
    copies = set(layout.copies)
    return theirs | {name: one for name, one in aside.items() if name not in copies}
