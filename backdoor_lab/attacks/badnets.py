"""BadNets: a small opaque patch in the bottom-right corner.

Paper     Gu et al., BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply
          Chain, 2017, arXiv:1708.06733; patterns of BackdoorBench, BCU (arXiv:2211.12044) and SBL
Differs   black cells of `checkerboard` are 0 behind a mask of their own; BackdoorBench's mask is
          [pattern > 0], hence the 1 in its `grid`. At other sizes `native` keeps crisp cells where
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
from backdoor_lab.validation import Count, Index, Share, validated

Pattern = Literal["square", "grid", "checkerboard", "random"]

PATTERNS: dict[str, list[list[int]]] = {
    "square": [[255, 255, 255], [255, 255, 255], [255, 255, 255]],
    "grid": [[255, 1, 255], [1, 255, 1], [255, 1, 255]],  # BackdoorBench
    "checkerboard": [[0, 0, 255], [0, 255, 0], [255, 0, 255]],  # BCU
}


class BadNets(Attack):
    """Overwrites a patch of every poisoned image.

    Args:
        poison_rate: see `Attack`.
        target: see `Attack`.
        all_to_all: see `Attack`.
        poison_rate_base: see `Attack`.
        pattern: `square` (white), `grid` (BackdoorBench), `checkerboard` (BCU) or `random` (SBL).
        size: side of the patch in pixels; None: 3 on 32 pixels, in proportion elsewhere.
        resize: `native` (crisp cells) or `bilinear` (of the whole 32-pixel trigger image).
    """

    levels: Tensor
    mask: Tensor

    @validated
    def __init__(
        self,
        poison_rate: Share,
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
        if self.size is not None and self.size > min(shape[1:]):
            raise ConfigError(
                f"attack.size={self.size} is larger than the image; allowed: 1 to {min(shape[1:])}"
            )

    def build(self, draw: torch.Generator) -> None:
        channels, height, width = self.spec.shape
        if self.pattern is None:
            cells = random_cells(channels, draw)
        else:
            cells = torch.tensor(self.pattern, dtype=torch.uint8).expand(channels, -1, -1)
        if self.bilinear:
            planes = [resized_canvas(plane, height, width) for plane in cells]
        else:
            size = self.size or max(3, round(3 * height / 32))
            planes = [corner_patch(plane, size, height, width) for plane in cells]
        levels, masks = zip(*planes, strict=True)
        self.register_buffer("levels", torch.stack(levels).float() / 255)
        self.register_buffer("mask", torch.stack(masks))

    def trigger(self, images: Tensor) -> Tensor:
        return torch.where(self.mask, self.levels, images)


def random_cells(channels: int, draw: torch.Generator) -> Tensor:
    """A value sigmoid(N(0, 1)) for each pixel and channel: (C, 3, 3) in 8 bits."""
    return nearest(torch.randn((channels, 3, 3), generator=draw).sigmoid() * 255)


def corner_patch(pattern: Tensor, size: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """`pattern` (3, 3) enlarged to `size` in the bottom-right corner: levels and mask (H, W)."""
    cells = torch.arange(size) * len(pattern) // size
    levels = torch.zeros(height, width, dtype=torch.uint8)
    mask = torch.zeros(height, width, dtype=torch.bool)
    levels[-size:, -size:] = pattern[cells][:, cells]
    mask[-size:, -size:] = True
    return levels, mask


def resized_canvas(pattern: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The 32-pixel trigger image resized by PIL; what is not black is the mask."""
    canvas, _ = corner_patch(pattern, 3, 32, 32)
    image = Image.fromarray(canvas.numpy()).resize((width, height), Image.Resampling.BILINEAR)
    levels = torch.from_numpy(np.array(image))
    return levels, levels > 0
