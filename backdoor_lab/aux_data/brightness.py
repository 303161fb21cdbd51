"""Brightness: reserved images, each made lighter or darker once and stored in 8 bits.

Differs   the factor is drawn from our own seeded stream instead of torchvision's ColorJitter
"""

from __future__ import annotations

import torch
from torch import Tensor

from backdoor_lab.aux_data.reserved import Reserved
from backdoor_lab.datasets import Data, ImageSet, truncate
from backdoor_lab.seeds import generator_for
from backdoor_lab.validation import Count, Fraction, Rate, validated


class Brightness(Reserved):
    """Draws from the reserved images after a change of their brightness.

    Args:
        ratio: size as a share of the victim's training split, in (0, 1].
        size: number of images; wins over `ratio`.
        labelled: whether the defender knows the labels.
        strength: factors are uniform in [1 - strength, 1 + strength].
    """

    @validated
    def __init__(
        self, ratio: Rate | None, size: Count | None, labelled: bool, strength: Fraction
    ) -> None:
        super().__init__(ratio, size, labelled)
        self.strength = strength

    def pool(self, data: Data, poisoned: Tensor | None, seed: int) -> ImageSet:
        reserved = super().pool(data, poisoned, seed)
        uniform = torch.rand(len(reserved), generator=generator_for(seed, "brightness"))
        factors = 1 + self.strength * (2 * uniform - 1)
        return ImageSet.of(brighten(reserved.images, factors), reserved.labels)


def brighten(images: Tensor, factors: Tensor) -> Tensor:
    """Images (N, C, H, W) uint8 times `factors` (N,), clamped and truncated to 8 bits."""
    return truncate(images.float() * factors.view(-1, 1, 1, 1))
