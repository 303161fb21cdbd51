"""Brightness: reserved images, each made lighter or darker once and stored in 8 bits.

Differs   the factor is drawn from our own seeded stream instead of torchvision's ColorJitter
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backdoor_lab.aux_data._pool import Pool
from backdoor_lab.aux_data.reserved import Reserved
from backdoor_lab.datasets import Data, truncate
from backdoor_lab.seeds import generator_for
from backdoor_lab.validation import Fraction, validated


class Brightness(Reserved):
    """Draws from the reserved images after a change of their brightness.

    Args:
        strength: factors are uniform in [1 - strength, 1 + strength].
        options: what every kind takes.
    """

    @validated
    def __init__(self, strength: Fraction, **options: Any) -> None:
        super().__init__(**options)
        self.strength = strength

    def pool(self, data: Data, poisoned: Tensor | None, seed: int) -> Pool:
        reserved = super().pool(data, poisoned, seed)
        uniform = torch.rand(len(reserved), generator=generator_for(seed, "brightness"))
        factors = 1 + self.strength * (2 * uniform - 1)
        return Pool(
            reserved.labels, lambda chosen: brighten(reserved.read(chosen), factors[chosen])
        )


def brighten(images: Tensor, factors: Tensor) -> Tensor:
    """Images (N, C, H, W) uint8 times `factors` (N,), clamped and truncated to 8 bits."""
    return truncate(images.float() * factors.view(-1, 1, 1, 1))
