"""Patch: a picture of the user's at a place of the user's, such as a sticker.

Paper     Gu et al., BadNets, 2017, arXiv:1708.06733: the general form of its triggers
Differs   -
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backdoor_lab.attacks._base import Attack, Base
from backdoor_lab.attacks._picture import opened
from backdoor_lab.attacks.badnets import random_cells
from backdoor_lab.errors import ConfigError
from backdoor_lab.validation import Count, Fraction, Index, validated

CELLS = 3  # a side, of a patch that is noise


class Patch(Attack):
    """Lays a picture over every poisoned image; where its file is transparent, the image shows.

    The first four are those of every attack (`Attack`).

    Args:
        picture: the file of the patch; None: seeded noise.
        size: pixels of its longer side; None: of a picture its own, of noise 3 on 32 pixels.
        at: pixels of its corner from the top and from the left; None: bottom right.
    """

    levels: Tensor
    opacity: Tensor

    @validated
    def __init__(
        self,
        poison_rate: Fraction,
        target: Index,
        all_to_all: bool = False,
        poison_rate_base: Base = "train_set",
        picture: Path | None = None,
        size: Count | None = None,
        at: tuple[Index, Index] | None = None,
    ) -> None:
        super().__init__(poison_rate, target, all_to_all, poison_rate_base)
        self.picture, self.size, self.at = picture, size, at

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        height, width = self._sides(shape)
        top, left = self.at or (0, 0)
        if top + height > shape[1] or left + width > shape[2]:
            raise ConfigError(
                f"attack.size={self.size}, attack.at={self.at} lay {width} x {height} pixels over "
                f"the edge of {shape[2]} x {shape[1]}; allowed: what lies inside"
            )

    def build(self, generator: torch.Generator) -> None:
        channels, height, width = self.spec.shape
        rows, columns = self._sides(self.spec.shape)
        top, left = self.at or (height - rows, width - columns)
        if self.picture is None:
            cells = Image.fromarray(random_cells(3, generator).permute(1, 2, 0).numpy())
            patch = cells.resize((columns, rows), Image.Resampling.NEAREST).convert("RGBA")
        else:
            patch = opened(self.picture, "RGBA").resize((columns, rows), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(patch)).permute(2, 0, 1).float() / 255
        levels, opacity = torch.zeros(channels, height, width), torch.zeros(1, height, width)
        levels[:, top : top + rows, left : left + columns] = pixels[:3]
        opacity[:, top : top + rows, left : left + columns] = pixels[3:]
        self.register_buffer("levels", levels)
        self.register_buffer("opacity", opacity)

    def trigger(self, images: Tensor) -> Tensor:
        return torch.lerp(images, self.levels, self.opacity)

    def _sides(self, shape: tuple[int, int, int]) -> tuple[int, int]:
        """Height and width of the patch in pixels."""
        if self.picture is None:
            side = self.size or max(CELLS, round(CELLS * shape[1] / 32))
            return side, side
        width, height = opened(self.picture, "RGBA").size
        scale = 1 if self.size is None else self.size / max(width, height)
        return max(1, round(height * scale)), max(1, round(width * scale))
