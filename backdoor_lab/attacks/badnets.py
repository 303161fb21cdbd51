"""BadNets: a small opaque patch in the bottom-right corner.

Paper     Gu et al., BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply
          Chain, 2017, arXiv:1708.06733; patterns of BackdoorBench, BCU (arXiv:2211.12044) and SBL
Differs   BackdoorBench's mask is [pattern > 0], hence the 1 in its `grid`; here a pattern
          with black cells has the mask of a white one. At other sizes `native` keeps crisp cells;
          `bilinear` is BackdoorBench's resize with its grey halo
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backdoor_lab.attacks._base import Attack, Base
from backdoor_lab.datasets import nearest
from backdoor_lab.errors import ConfigError
from backdoor_lab.validation import Count, Fraction, Index, validated

Pattern = Literal["square", "grid", "checkerboard", "random"]

PATTERNS: dict[str, list[list[int]]] = {
    "square": [[255, 255, 255], [255, 255, 255], [255, 255, 255]],
    "grid": [[255, 1, 255], [1, 255, 1], [255, 1, 255]],  # BackdoorBench
    "checkerboard": [[0, 0, 255], [0, 255, 0], [255, 0, 255]],  # BCU
}


class BadNets(Attack):
    """Overwrites a patch of every poisoned image.

    The first four are those of every attack (`Attack`).

    Args:
        pattern: `square` (white), `grid` (BackdoorBench), `checkerboard` (BCU) or `random` (SBL).
        size: side of the patch in pixels; None: 3 on 32 pixels, in proportion elsewhere. With
            `bilinear` its side in the 32-pixel trigger image.
        resize: `native` (crisp cells) or `bilinear` (of the whole 32-pixel trigger image).
    """

    levels: Tensor
    mask: Tensor

    @validated
    def __init__(
        self,
        poison_rate: Fraction,
        target: Index,
        all_to_all: bool = False,
        poison_rate_base: Base = "train_set",
        pattern: Pattern = "square",
        size: Count | None = None,
        resize: Literal["native", "bilinear"] = "native",
    ) -> None:
        super().__init__(poison_rate, target, all_to_all, poison_rate_base)
        self.pattern = PATTERNS.get(pattern)  # none: drawn when the trigger is built
        self.size = size
        self.bilinear = resize == "bilinear"

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        most = 32 if self.bilinear else min(shape[1:])
        if self.size is not None and not 3 <= self.size <= most:
            raise ConfigError(f"attack.size={self.size} is no patch; allowed: 3 to {most}")

    def build(self, generator: torch.Generator) -> None:
        channels, height, width = self.spec.shape
        if self.pattern is None:
            cells = random_cells(channels, generator)
        else:
            cells = torch.tensor(self.pattern, dtype=torch.uint8).expand(channels, -1, -1)
        if self.bilinear:
            planes = [resized_canvas(plane, self.size or 3, height, width) for plane in cells]
        else:
            size = self.size or max(3, round(3 * height / 32))
            planes = [corner_patch(plane, size, height, width) for plane in cells]
        levels, masks = zip(*planes, strict=True)
        self.register_buffer("levels", torch.stack(levels).float() / 255)
        self.register_buffer("mask", torch.stack(masks))

    def trigger(self, images: Tensor) -> Tensor:
        return torch.where(self.mask, self.levels, images)


def random_cells(channels: int, generator: torch.Generator) -> Tensor:
    """A value sigmoid(N(0, 1)) for each pixel and channel: (C, 3, 3) in 8 bits."""
    return nearest(torch.randn((channels, 3, 3), generator=generator).sigmoid() * 255)


def corner_patch(pattern: Tensor, size: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """`pattern` (3, 3) enlarged to `size` in the bottom-right corner: levels and mask (H, W)."""
    cells = torch.arange(size) * len(pattern) // size
    levels = torch.zeros(height, width, dtype=torch.uint8)
    mask = torch.zeros(height, width, dtype=torch.bool)
    levels[-size:, -size:] = pattern[cells][:, cells]
    mask[-size:, -size:] = True
    return levels, mask


def resized_canvas(pattern: Tensor, size: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The 32-pixel trigger image resized by PIL; the mask is what is not black.

    A pattern with black cells takes the mask of a white patch.
    """
    canvas, patch = corner_patch(pattern, size, 32, 32)
    levels = resized(canvas, height, width)
    shown = levels if pattern.all() else resized(255 * patch.byte(), height, width)
    return levels, shown > 0


def resized(plane: Tensor, height: int, width: int) -> Tensor:
    """A plane (H, W) uint8 at another size, bilinearly."""
    image = Image.fromarray(plane.numpy()).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image))
