"""The encoder-decoder of input-aware triggers, and how it learns their masks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from backdoor_lab.datasets import DataSpec, ImageSet
from backdoor_lab.models.classifier import Normalize
from backdoor_lab.seeds import derive
from backdoor_lab.training import Batches, Engine, Supervised, Tuning, multi_step

SHRINKAGE = 8  # three levels of pooling
MILESTONES = [10, 20]


class EncoderDecoder(nn.Module):
    """Images in [0, 1] to pictures in (0, 1) of the same size, without skip connections.

    Args:
        spec: channels and normalisation of the images; the sides are multiples of `SHRINKAGE`.
        channels: of the pictures.
        width: channels of the first level; each level has twice those of the one above.
        double_tanh: squash twice, which confines the pictures to (0.119, 0.881).
    """

    def __init__(self, spec: DataSpec, channels: int, width: int, double_tanh: bool) -> None:
        super().__init__()
        self.normalize = Normalize(spec.mean, spec.std)
        self.double_tanh = double_tanh
        one, two, four = width, 2 * width, 4 * width
        self.layers = nn.Sequential(
            *block(spec.shape[0], one), *block(one, one), nn.MaxPool2d(2),
            *block(one, two), *block(two, two), nn.MaxPool2d(2),
            *block(two, four), *block(four, four), nn.MaxPool2d(2),
            *block(four, four),
            enlarge(), *block(four, four), *block(four, two),
            enlarge(), *block(two, two), *block(two, one),
            enlarge(), *block(one, one),
        )  # fmt: skip
        self.last = nn.Sequential(*block(one, channels)[:-1])

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (N, channels, H, W) for images (N, C, H, W)."""
        features = self.layers(self.normalize(images))
        with torch.autocast(images.device.type, enabled=False):  # pixels in bf16 are too coarse
            raw = self.last(features.float())
            return squash(raw.tanh() if self.double_tanh else raw)


def block(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Convolution, BatchNorm, ReLU, at the same size."""
    norm = nn.BatchNorm2d(outputs, momentum=0.05)
    return nn.Conv2d(inputs, outputs, 3, padding=1), norm, nn.ReLU()


def enlarge() -> nn.Module:
    """Twice the sides, bilinearly."""
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)


def squash(raw: Tensor) -> Tensor:
    """Any number to (0, 1); 0 to 1/2."""
    return raw.tanh() / (2 + 1e-7) + 0.5


def threshold(pictures: Tensor) -> Tensor:
    """[0, 1] to nearly 0 or 1, steeply at 1/2."""
    return squash(20 * pictures - 10)


class Paired(Supervised):
    """Has another batch of the same data, in an order and augmentation of its own, at each step."""

    partners: Batches
    others: Iterator[tuple[Tensor, Tensor]]

    def pair(self, engine: Engine, data: ImageSet) -> None:
        """Draw the partners from `data`, in batches as large as those that they accompany."""
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
        density: what a mask may be in every pixel for free.
        weights: of diversity and of sparsity.
    """

    model: EncoderDecoder
    density: float
    weights: tuple[float, float]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        (images, _), (others, _) = batch, next(self.others)
        masks, other_masks = threshold(self.model(images)), threshold(self.model(others))
        normalize = self.model.normalize
        alike = likeness(normalize(images), normalize(others), masks, other_masks)
        dense = F.relu(masks - self.density).mean()
        return self.weights[0] * alike + self.weights[1] * dense

    def configure_optimizers(self) -> Any:
        return adam(self.model, self.recipe.lr, MILESTONES)


def adam(model: nn.Module, lr: float, milestones: list[int]) -> dict[str, Any]:
    """Optimizer and schedule of a generator."""
    optimizer = Adam(model.parameters(), lr=lr, betas=(0.5, 0.9))
    return {"optimizer": optimizer, "lr_scheduler": multi_step(optimizer, 0, 0, milestones)}


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Root mean squared difference (N,) of two (N, C, H, W), with a finite gradient at 0."""
    return ((first - second).square().flatten(1).mean(1) + 1e-12).sqrt()


def likeness(images: Tensor, others: Tensor, made: Tensor, others_made: Tensor) -> Tensor:
    """How much more images differ than what was made of them: mean of d(x, x') / d(g, g')."""
    return (distance(images, others) / (distance(made, others_made) + 1e-7)).mean()
