"""The plain training that attacks and defenses start from."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Self

import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn

from backdoor_lab.training.augment import Augmentation
from backdoor_lab.training.recipe import Recipe
from backdoor_lab.training.sam import SAM, frozen_statistics


class Supervised(LightningModule):
    """Cross-entropy of `model` on labelled batches of images in [0, 1].

    Attributes:
        model: what is trained.
        recipe: how.
        augment: what happens to each batch before the step, or None.
        seed: of order, augmentation and whatever the step draws.
        steps_per_epoch: told by the engine, for schedules.
        precision: of the training, where its mathematics cannot bear the engine's (a gradient of a
            gradient under bf16 is wrong: `32-true`).
    """

    model: nn.Module
    recipe: Recipe
    augment: Augmentation | None = None
    seed: int = 0
    steps_per_epoch: int = 0
    precision: ClassVar[str | None] = None

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def configure_optimizers(self) -> Any:
        config = self.recipe.optimizers(self.model.parameters(), self.steps_per_epoch)
        if isinstance(config["optimizer"], SAM):
            config["optimizer"].second_pass = partial(frozen_statistics, self.model)
        return config

    def train(self, mode: bool = True) -> Self:
        """What is frozen (`models.freeze`) stays in eval mode."""
        super().train(mode)
        for module in self.modules():  # the outer ones first
            if (frozen := getattr(module, "frozen", None)) is not None:
                module.train(mode and not frozen)
        return self

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Batches are cut where they are used."""
        return batch


class Tuning(Supervised):
    """`Supervised` on a given model: fine-tuning, and the phases of defenses."""

    def __init__(
        self, model: nn.Module, recipe: Recipe, augment: Augmentation | None, seed: int
    ) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.augment = augment
        self.seed = seed
