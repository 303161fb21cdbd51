"""How the masks of input-aware triggers are learnt: sparse, and different as the images are."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from backdoor_lab.attacks.input_aware.networks import EncoderDecoder, threshold
from backdoor_lab.datasets import ImageSet
from backdoor_lab.seeds import derive
from backdoor_lab.training import Batches, Engine, Supervised, Tuning


class Paired(Supervised):
    """Each step has a second batch of the same data, with its own order and augmentation."""

    partners: Batches
    others: Iterator[tuple[Tensor, Tensor]]

    def pair(self, engine: Engine, data: ImageSet) -> None:
        """Let the second batches come from `data`, as large as the first ones."""
        self.partners = engine.batches(
            data,
            self.recipe.batch_size,
            seed=derive(self.seed, "partners"),
            augment=self.augment,
            drop_last=self.recipe.drop_last,
        )

    def on_train_epoch_start(self) -> None:
        self.partners.set_epoch(self.current_epoch)
        self.others = iter(self.partners)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        del self.others


class MaskTraining(Tuning, Paired):
    """Teaches `model` masks that are sparse, and differ as the images do.

    Attributes:
        density: up to this value a mask's pixel costs nothing.
        weights: of diversity and of sparsity.
    """

    model: EncoderDecoder
    density: float
    weights: tuple[float, float]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        (images, _), (others, _) = batch, next(self.others)
        masks, other_masks = threshold(self.model(images)), threshold(self.model(others))
        normalize = self.model.normalize
        diversity = diversity_loss(normalize(images), normalize(others), masks, other_masks)
        dense = F.relu(masks - self.density).mean()
        return self.weights[0] * diversity + self.weights[1] * dense


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Root mean squared difference (N,) of two (N, C, H, W), with a finite gradient at 0."""
    return ((first - second).square().flatten(1).mean(1) + 1e-12).sqrt()


def diversity_loss(images: Tensor, others: Tensor, made: Tensor, others_made: Tensor) -> Tensor:
    """Mean of d(x, x') / d(g, g'): large where pictures g are alike and their images x are not."""
    return (distance(images, others) / (distance(made, others_made) + 1e-7)).mean()
