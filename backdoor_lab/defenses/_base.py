"""What every defense shares: it sees a model and the auxiliary set, and nothing else."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import DataSpec, ImageSet
from backdoor_lab.errors import ConfigError, spelled
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import CropFlip, Engine, Recipe, Supervised, Tuning


class Defense(Supervised):
    """Purifies a model with the defender's auxiliary set.

    The test set, the trigger and the poisoned indices are out of its reach: `attach` hands it the
    engine, public facts of the data and a seed, `purify` a model and the auxiliary set. A choice
    that it must make, it makes on a held-out part of that set.

    Attributes:
        needs_images: whether it can do anything without auxiliary images.
        needs_labels: whether these must be labelled.
        needs_batch_norm: whether it works on the model's batch normalisation.
        details: what it found, for the report (plain numbers and text).
    """

    needs_images = True
    needs_labels = True
    needs_batch_norm = False

    def __init__(self) -> None:
        super().__init__()
        self.engine: Engine
        self.spec: DataSpec
        self.details: dict[str, Any] = {}

    @abstractmethod
    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        """A purified model with the same `state_dict` keys; `model` itself may be changed."""

    def check(self, has_images: bool, labelled: bool) -> None:
        """Refuse auxiliary data that cannot serve.

        Raises:
            ConfigError: names the key, what was given and what is allowed.
        """
        name = spelled(self)
        if self.needs_images and not has_images:
            raise ConfigError(
                f"aux=none, but defense={name} needs images; "
                "allowed: any other aux, or a defense without data such as clp"
            )
        if self.needs_labels and has_images and not labelled:
            raise ConfigError(
                f"aux.labelled=false, but defense={name} needs labels; "
                "allowed: true, or a defense without labels such as bcu"
            )

    def check_model(self, model: nn.Module) -> None:
        """Refuse an architecture that the defense has no hold on.

        Raises:
            ConfigError: says what is missing.
        """
        if self.needs_batch_norm and not batch_norms(model):
            raise ConfigError(
                f"model without BatchNorm, but defense={spelled(self)} works on it; "
                "allowed: a model that has some"
            )

    def attach(self, engine: Engine, spec: DataSpec, seed: int) -> None:
        """Take the tools and public facts that every defense may use."""
        self.engine, self.spec, self.seed = engine, spec, seed

    def tune(
        self, model: nn.Module, data: ImageSet, recipe: Recipe, title: str, **options: Any
    ) -> nn.Module:
        """Plain fine-tuning of `model` on labelled `data`, with crop and flip."""
        augment = CropFlip(self.spec.padding, self.spec.flip)
        self.engine.fit(Tuning(model, recipe, augment, self.seed), data, title, **options)
        return model

    def hold_out(self, data: ImageSet, share: float = 0.1) -> tuple[ImageSet, ImageSet]:
        """(to train on, to choose by): `max(1, share * n_c)` of each class with two or more."""
        draw = generator_for(self.seed, "hold out")
        held = torch.zeros(len(data), dtype=torch.bool)
        labels = data.labels.cpu()
        for label in labels.unique():
            members = (labels == label).nonzero().flatten()
            count = max(1, int(share * len(members))) if len(members) > 1 else 0
            held[members[torch.randperm(len(members), generator=draw)[:count]]] = True
        return data.take((~held).nonzero().flatten()), data.take(held.nonzero().flatten())


def batch_norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """Every affine batch normalisation of `model` by name, in module order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and module.affine
    }
