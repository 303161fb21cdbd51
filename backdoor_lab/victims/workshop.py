"""Where an attacker works: data, model, recipe, and a store of what was made before."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from backdoor_lab.attacks import Attack
from backdoor_lab.attacks.none import NoAttack
from backdoor_lab.config import versions
from backdoor_lab.datasets import Data, ImageSet
from backdoor_lab.errors import method_name
from backdoor_lab.models import Classifier, ModelFactory
from backdoor_lab.store import Provenance, Store
from backdoor_lab.tensors import plain
from backdoor_lab.training import Engine, Recipe
from backdoor_lab.victims._base import Victim
from backdoor_lab.victims.folder import load_victim, save_victim

Facts = dict[str, Any]


@dataclass(frozen=True)
class Artifact:
    """A module that was filled: `name` tells it from all others, `facts` say how it came out."""

    name: str
    facts: Facts


@dataclass(frozen=True)
class CleanModel:
    """A classifier without a backdoor; `name` tells it from all others."""

    model: Classifier
    name: str


@dataclass(frozen=True)
class Workshop:
    """What an attacker has to work with.

    Attributes:
        data: the loaded data set.
        recipe: of the victim's training.
        factory: builds the victim's classifier.
        engine: trains it.
        store: keeps victims and artifacts.
        provenance: tells which code made them.
        name: begins the names of the victims' folders.
        identity: the resolved config of all that decides a victim.
    """

    data: Data
    recipe: Recipe
    factory: ModelFactory
    engine: Engine
    store: Store
    provenance: Provenance
    name: str
    identity: dict[str, Any]

    @property
    def train(self) -> ImageSet:
        """What victims are trained on."""
        return self.data.train

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.identity["seed"])

    def victim(self, attack: Attack, choice: Facts | None = None) -> Victim:
        """The victim of `attack`, trained now or found.

        Args:
            attack: attached to the data.
            choice: the resolved config that it was built from; None: the one of the run.
        """
        choice = choice or self.identity["attack"]
        key = {**self.identity, "attack": choice, "data": self.data.fingerprint}
        key["code"] = self.provenance.of(key)
        model = self.factory.build(self.data.spec, attack.seed)

        def make(folder: Path) -> None:
            start = time.perf_counter()
            poisoned = attack.train_victim(model, self, folder)
            card = {
                "made_from": key,
                "classes": self.data.spec.classes,
                "seconds": time.perf_counter() - start,
                "details": attack.details,
                "versions": versions(),
            }
            save_victim(folder, model, attack, poisoned, card)

        name = f"{self.name}-{method_name(choice['_target_'])}"
        folder, cached = self.store.make_once(name, key, make)
        return load_victim(folder, model, attack.to(self.engine.device), cached)

    def clean_model(self) -> CleanModel:
        """The classifier that `attack=none` makes of the same data, model, recipe and seed."""
        attack = NoAttack()
        attack.attach(self.data.spec, self.recipe, self.seed)
        choice = {"_target_": f"{NoAttack.__module__}.{NoAttack.__name__}"}
        victim = self.victim(attack, choice)
        return CleanModel(victim.model, victim.name)

    def make_once(
        self,
        attack: nn.Module,
        part: str,
        module: nn.Module,
        settings: Facts,
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
        key = self._artifact_key(attack, settings)

        def save(folder: Path) -> None:
            start = time.perf_counter()
            facts = make(folder)
            save_file(plain(module.state_dict()), folder / "state.safetensors")
            facts = {**facts, "seconds": time.perf_counter() - start}
            card = {"made_from": key, "facts": facts, "versions": versions()}
            (folder / "artifact.json").write_text(json.dumps(card, indent=2, default=str))

        folder, _ = self.store.make_once(f"{self.identity['dataset']['name']}-{part}", key, save)
        module.load_state_dict(load_file(folder / "state.safetensors"))
        module.to(self.engine.device)
        return Artifact(folder.name, json.loads((folder / "artifact.json").read_text())["facts"])

    def _artifact_key(self, attack: nn.Module, settings: Facts) -> Facts:
        """What an artifact is made from; the attack's code is part of it."""
        kind = type(attack)
        return {
            **{name: self.identity.get(name) for name in ("dataset", "trainer", "seed")},
            "settings": settings,
            "data": self.data.fingerprint,
            "code": self.provenance.of_symbols([(kind.__module__, kind.__name__)]),
        }
