"""The plain training that attacks and defenses start from."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn

from backdoor_lab.training.augment import CropFlip
from backdoor_lab.training.recipe import Recipe


class Supervised(LightningModule):
    """Cross-entropy of `model` on labelled batches of images in [0, 1].

    Attributes:
        model: what is trained.
        recipe: how.
        augment: what happens to each batch before the step, or None.
        seed: of order, augmentation and whatever the step draws.
        steps_per_epoch: told by the engine, for schedules.
    """

    model: nn.Module
    recipe: Recipe
    augment: CropFlip | None = None
    seed: int = 0
    steps_per_epoch: int = 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def configure_optimizers(self) -> Any:
        return self.recipe.optimizers(self.model.parameters(), self.steps_per_epoch)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Batches are cut where they are used."""
        return batch


class Tuning(Supervised):
    """`Supervised` on a given model: fine-tuning, and the phases of defenses."""

    def __init__(
        self, model: nn.Module, recipe: Recipe, augment: CropFlip | None, seed: int
    ) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.augment = augment
        self.seed = seed
