"""The story of an import: opened, matched with an architecture, kept, tried on the images."""

from __future__ import annotations

import json
import logging
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from backdoor_lab.attacks import Attack
from backdoor_lab.config import versions
from backdoor_lab.datasets import DataSpec
from backdoor_lab.errors import ConfigError, spelled
from backdoor_lab.model_folder import companions
from backdoor_lab.models import Classifier, ModelFactory
from backdoor_lab.validation import validated
from backdoor_lab.victims._base import Victim, VictimSource
from backdoor_lab.victims.folder import CARD
from backdoor_lab.victims.imported.layout import Layout
from backdoor_lab.victims.imported.opening import existing, opened, taken
from backdoor_lab.victims.imported.statements import refuse_statements
from backdoor_lab.victims.imported.trial import tried_out
from backdoor_lab.victims.workshop import Workshop

log = logging.getLogger(__name__)
SHORT = 12  # of the digits of a file's hash, in a folder's name


class Imported(VictimSource):
    """Brings a classifier from a file or a folder; of its training nothing is known.

    Args:
        path: of the file or the folder.
    """

    knows_training = False

    @validated
    def __init__(self, path: Path | None) -> None:
        self.path = path

    def check(self, attack: Attack, architecture: ModelFactory) -> None:
        if attack.must_train:
            raise ConfigError(
                f"attack={spelled(attack)} must train before it has a trigger, which an imported "
                "victim never saw; allowed: unknown, patch, badnets, blended, sig, or another "
                "whose trigger is there at once"
            )
        opened(self.path, architecture)

    def bring(self, attack: Attack, shop: Workshop) -> Victim:
        spec, file = shop.data.spec, shop.identity["victim"]["path"]
        about = {"classes": spec.classes, "shape": spec.shape, "mean": spec.mean, "std": spec.std}
        code = shop.provenance.of_symbols([(__name__, type(self).__name__)])
        key = {"file": file, "model": shop.identity["model"], "spec": about, "code": code}
        name = f"imported-{file[:SHORT]}"
        folder, cached = shop.store.make_once(name, key, partial(self._import, shop, key))
        card = json.loads((folder / CARD).read_text())
        model = Classifier.of(card["model"])
        model.net.load_state_dict(load_file(folder / "model.safetensors"))
        layout = Layout(**card["layout"])
        if layout.copies:
            log.warning(
                "the file holds the weights a second time (%s and others): %s and others are "
                "judged and purified, the second ones are not, nor are they handed back",
                layout.copies[0], next(iter(layout.names.values())),
            )  # fmt: skip
        facts = {
            "file": file,
            "name": existing(self.path).name,
            "format": card["format"],
            "left_aside": list(layout.aside),
            "accuracy_on_train": tried_out(model.eval(), shop),
        }
        known = None if attack.harmless else attack.to(shop.engine.device)
        seconds = float(card["seconds"])
        return Victim(model, known, None, folder.name, seconds, cached, facts, layout, folder)

    def _import(self, shop: Workshop, key: dict[str, Any], folder: Path) -> None:
        """Write our own safetensors, and a card, into `folder`."""
        start = time.perf_counter()
        found = opened(self.path, shop.factory)
        refuse_statements(found.told, found.outputs, shop)
        model = empty(shop.data.spec, found.factory)
        taken(self.path, found.layout, model, folder)
        for file in companions(existing(self.path)):
            shutil.copyfile(file, folder / file.name)
        card = {
            "made_from": key,
            "model": model.card(),
            "layout": found.layout.as_text(),
            "format": found.format,
            "told": found.told.as_text(),
            "seconds": time.perf_counter() - start,
            "versions": versions(),
        }
        (folder / CARD).write_text(json.dumps(card, indent=2, default=str))


def empty(spec: DataSpec, factory: ModelFactory) -> Classifier:
    """The classifier that a file's weights belong to, without them.

    Raises:
        ConfigError: its stem is that for small images, and the images are not.
    """
    model = Classifier(factory.architecture, spec, False, factory.small_stem, factory.options)
    if factory.small_stem and not model.has_small_stem:
        raise ConfigError(
            f"dataset.image_size={spec.shape[1]}, but the stem of this ResNet is that for small "
            "images; allowed: up to 64"
        )
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *spec.shape))
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"dataset.image_size={spec.shape[1]} does not suit {factory.architecture} "
            f"({str(error).splitlines()[0]}); allowed: the size that it was trained with"
        ) from None
    return model
