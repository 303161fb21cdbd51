"""Where an attack makes what it needs before the victim: clean models, encoders, generators."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from backdoor_lab.configuration import versions
from backdoor_lab.datasets import Data, ImageSet
from backdoor_lab.models import ModelFactory
from backdoor_lab.store.artifacts import Store, plain
from backdoor_lab.store.code import code_digest
from backdoor_lab.training import Engine, Recipe

Facts = dict[str, Any]


@dataclass(frozen=True)
class Artifact:
    """A module that was filled: `name` tells it from all others, `facts` say how it came out."""

    name: str
    facts: Facts


@dataclass(frozen=True)
class CleanModel:
    """A classifier without a backdoor; `name` tells it from all others."""

    model: nn.Module
    name: str


@dataclass(frozen=True)
class Workshop:
    """An attacker's means.

    `recipe` is the victim's; `name` begins the names of folders; `identity` is the resolved config
    of what victims are made from: data set, model, recipe, seed; `train_clean` makes a clean model.
    """

    data: Data
    recipe: Recipe
    factory: ModelFactory
    engine: Engine
    store: Store
    name: str
    identity: dict[str, Any]
    train_clean: Callable[[Workshop], CleanModel]

    @property
    def train(self) -> ImageSet:
        """What victims are trained on."""
        return self.data.train

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.identity["seed"])

    def clean_model(self) -> CleanModel:
        """The classifier that `attack=none` makes of the same data, model, recipe and seed."""
        return self.train_clean(self)

    def obtain(
        self,
        attack: nn.Module,
        part: str,
        module: nn.Module,
        settings: dict[str, Any],
        make: Callable[[Path], Facts],
    ) -> Artifact:
        """Fill `module` with the state that `make(folder)` leaves it in, now or long ago.

        Made once for the same data, seed, `settings` and code; an interrupted making resumes in its
        folder. Settings name whatever else decides: hyperparameters, the model's config
        (`identity["model"]`), the artifacts it is made from.

        Args:
            attack: who asks; its code is part of the key.
            part: what is made, such as `encoder`.
            module: filled in place; lies on the engine's device afterwards.
            settings: what decides the outcome.
            make: trains `module`, and returns facts worth a report.
        """
        key = {
            **{name: self.identity[name] for name in ("dataset", "root", "seed")},
            "settings": settings,
            "data": self.data.fingerprint,
            "code": code_digest(attack),
        }

        def save(folder: Path) -> None:
            start = time.perf_counter()
            facts = make(folder)
            save_file(plain(module.state_dict()), folder / "state.safetensors")
            facts = {**facts, "seconds": time.perf_counter() - start}
            card = {"made_from": key, "facts": facts, "versions": versions()}
            (folder / "artifact.json").write_text(json.dumps(card, indent=2, default=str))

        folder, _ = self.store.obtain(f"{self.identity['dataset']['name']}-{part}", key, save)
        module.load_state_dict(load_file(folder / "state.safetensors"))
        module.to(self.engine.device)
        return Artifact(folder.name, json.loads((folder / "artifact.json").read_text())["facts"])
