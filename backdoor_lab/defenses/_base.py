"""What every defense shares: it sees a model and the auxiliary set, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from types import EllipsisType
from typing import Any

import torch
from lightning import Callback
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import DataSpec, ImageSet
from backdoor_lab.errors import ConfigError, spelled
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import Augmentation, CropFlip, Engine, Supervised

CHOOSING = 50  # on ten images a lost half of the accuracy and a kept one look alike


class Defense(Supervised):
    """Purifies a model with the defender's auxiliary set.

    A defense with a loop is that loop: its `training_step` is what `fit` runs, cross-entropy where
    it has none of its own. `purify` orders the phases; a method in closed form overrides it alone.

    The test set, the trigger and the poisoned indices are out of its reach: `attach` hands it the
    engine, public facts of the data and a seed, `purify` a model and the auxiliary set. A choice
    that it must make, it makes on a held-out part of that set.

    Attributes:
        needs_images: whether it must have auxiliary images.
        needs_labels: whether these must be labelled.
        needs_batch_norm: whether it works on the model's batch normalisation.
        keeps_architecture: whether weights alone change; if not, `models.replace` makes the edits.
        idle: whether it hands the model back as it is.
        least: images without which it has no batch, BatchNorm knowing none of a single image.
        key: of its values on the command line, for refusals: `defense`, or `then` in a chain.
        details: what it found, for the report (plain numbers and text).
        crop_flip: the data set's augmentation.
        original: makes a frozen copy of the victim as it was before the first of several defenses.
    """

    needs_images = True
    needs_labels = True
    needs_batch_norm = False
    keeps_architecture = True
    idle = False
    least = 2
    key = "defense"

    def __init__(self) -> None:
        super().__init__()
        self.engine: Engine
        self.spec: DataSpec
        self.crop_flip: CropFlip
        self.original: Callable[[], nn.Module]
        self.details: dict[str, Any] = {}

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        """A purified model, by default `model` itself after `fit`; `model` may be changed."""
        return self.fit(model, aux.labelled_data if self.needs_labels else aux.data)

    def fit(
        self,
        model: nn.Module,
        data: ImageSet,
        callbacks: Sequence[Callback] = (),
        augment: Augmentation | EllipsisType | None = ...,
    ) -> nn.Module:
        """Train `model` by this module's step and recipe, and hand it back in eval mode.

        Args:
            model: the attribute `model` during the training, and only then.
            data: the images.
            callbacks: what acts on the training.
            augment: of the images; `...`: crop and flip of the data set; None: nothing.
        """
        self.model = model
        self.augment = self.crop_flip if augment is ... else augment
        self.engine.fit(self, data, spelled(self), callbacks)
        del self.model
        self.trainer = None
        return model

    @property
    def choice(self) -> str:
        """How it is chosen on the command line."""
        group = "defense" if self.key == "defense" else f"defense@{self.key}"
        return f"{group}={spelled(self)}"

    def check(self, has_images: bool, labelled: bool) -> None:
        """Refuse auxiliary data that cannot serve.

        Raises:
            ConfigError: names the key, what was given and what is allowed.
        """
        if self.needs_images and not has_images:
            raise ConfigError(
                f"aux=none, but {self.choice} needs images; "
                "allowed: any other aux, or a defense without data such as clp"
            )
        if self.needs_labels and has_images and not labelled:
            raise ConfigError(
                f"aux.labelled=false, but {self.choice} needs labels; "
                "allowed: true, or a defense without labels such as bcu"
            )

    def check_size(self, count: int) -> None:
        """Refuse an auxiliary set of `count` images that is too small.

        Raises:
            ConfigError: says how many are needed.
        """
        if self.needs_images and count < self.least:
            raise ConfigError(
                f"aux.size, aux.ratio mean {count} image(s), but {self.choice} needs more; "
                f"allowed: {self.least} or more"
            )

    def check_model(self, model: nn.Module) -> None:
        """Refuse an architecture that the defense has no hold on.

        Raises:
            ConfigError: says what is missing.
        """
        if self.needs_batch_norm and not batch_norms(model):
            raise ConfigError(
                f"model without BatchNorm, but {self.choice} works on it; "
                "allowed: a model that has some"
            )

    def attach(self, engine: Engine, spec: DataSpec, seed: int) -> None:
        """Take the tools and public facts that every defense may use."""
        self.engine, self.spec, self.seed = engine, spec, seed
        self.crop_flip = CropFlip(spec.padding, spec.flip)

    def hold_out(self, data: ImageSet, share: float = 0.1) -> tuple[ImageSet, ImageSet]:
        """(to train on, to choose by): `share` of the images, but 50 at least and half at most.

        Each class gives in its proportion, rounded up, and at most half of its images: what is
        left trains every class, and a class of one image is not held out.

        Raises:
            ConfigError: no class has two images.
        """
        wanted = max(ceil(share * len(data)), CHOOSING)
        generator = generator_for(self.seed, "hold out")
        held = torch.zeros(len(data), dtype=torch.bool)
        labels = data.labels.cpu()
        for label in labels.unique():
            members = (labels == label).nonzero().flatten()
            count = min(-(-wanted * len(members) // len(data)), len(members) // 2)
            held[members[torch.randperm(len(members), generator=generator)[:count]]] = True
        if not held.any():
            raise ConfigError(
                f"{self.choice} chooses on held-out images, but no class has two of the "
                f"{len(data)} auxiliary ones; allowed: a larger aux.size"
            )
        return data.take((~held).nonzero().flatten()), data.take(held.nonzero().flatten())


def batch_norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """Every affine batch normalisation of `model` by name, in module order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and module.affine
    }
