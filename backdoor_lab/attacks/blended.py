"""Blended: a fixed picture mixed into the whole image.

Paper     Chen et al., Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning,
          2017, arXiv:1712.05526
Differs   the picture is seeded uniform noise at the image's own size (as in BCU's text; what its
          code ships is a JPEG, weaker and nearly grey) or the user's own file; BackdoorBench's is
          a third party's artwork, which is not ours to ship
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backdoor_lab.attacks._base import Attack, Base
from backdoor_lab.attacks._picture import opened
from backdoor_lab.validation import Fraction, Index, Rate, validated


class Blended(Attack):
    """Mixes a share of a key picture into every poisoned image.

    The first four are those of every attack (`Attack`).

    Args:
        alpha: share of the picture in poisoned training images.
        test_alpha: share of the picture in triggered test images; None: `alpha`.
        picture: a file to blend in; None: seeded noise.
    """

    key: Tensor

    @validated
    def __init__(
        self,
        poison_rate: Fraction,
        target: Index,
        all_to_all: bool = False,
        poison_rate_base: Base = "train_set",
        alpha: Rate = 0.2,
        test_alpha: Rate | None = None,
        picture: Path | None = None,
    ) -> None:
        super().__init__(poison_rate, target, all_to_all, poison_rate_base)
        self.alpha = alpha
        self.test_alpha = test_alpha or alpha
        self.picture = picture

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        if self.picture is not None:
            opened(self.picture, "RGB")  # refuses what is none

    def build(self, generator: torch.Generator) -> None:
        channels, height, width = self.spec.shape
        if self.picture is None:
            key = torch.randint(0, 256, self.spec.shape, generator=generator)
        else:
            picture = opened(self.picture, "RGB" if channels == 3 else "L")
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
            key = torch.from_numpy(np.array(picture)).view(height, width, channels).permute(2, 0, 1)
        self.register_buffer("key", key.float() / 255)

    def trigger(self, images: Tensor) -> Tensor:
        return blend(images, self.key, self.test_alpha)

    def train_trigger(self, images: Tensor) -> Tensor:
        return blend(images, self.key, self.alpha)


def blend(images: Tensor, key: Tensor, alpha: float) -> Tensor:
    """`(1 - alpha) * images + alpha * key`, images (N, C, H, W), key (C, H, W)."""
    return torch.lerp(images, key, alpha)
