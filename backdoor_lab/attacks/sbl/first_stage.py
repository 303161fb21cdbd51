"""SBL's first stage: the backdoor is learnt in a flat minimum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from backdoor_lab.seeds import generator_for
from backdoor_lab.training import Augmentation, Recipe, Tuning

Batch = tuple[Tensor, Tensor]
Poisoning = Callable[[Tensor, Tensor, torch.Generator], Batch]


class FirstStage(Tuning):
    """Trains `model` on batches that `poisoning` changes, with SAM as the recipe's optimizer."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        augment: Augmentation | None,
        seed: int,
        poisoning: Poisoning,
    ) -> None:
        super().__init__(model, recipe, augment, seed)
        self.poisoning = poisoning

    def on_train_epoch_start(self) -> None:
        self.generator = generator_for(self.seed, f"sbl {self.current_epoch}", self.device)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Poisons here, not in the step: both passes of SAM see the same batch."""
        return self.poisoning(*batch, self.generator)


def unchanged(images: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
    """The batch as it is."""
    del generator
    return images, labels
