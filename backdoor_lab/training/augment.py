"""Random crop and flip of a whole batch on its device, a parameter per image."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Augmentation(Protocol):
    """A random change of a batch, its parameters drawn for a whole epoch at once."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Parameters (count, ...), a row an image, on the generator's device."""

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Images (N, C, H, W) uint8 changed by `parameters` (N, ...)."""


@dataclass(frozen=True)
class CropFlip:
    """Zero-padded random crop back to size, then a horizontal flip with probability 1/2."""

    padding: int
    flip: bool

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Parameters (count, 3): row offset, column offset, flipped."""
        device = generator.device
        offsets = torch.randint(
            0, 2 * self.padding + 1, (count, 2), generator=generator, device=device
        )
        flips = torch.randint(0, 2, (count, 1), generator=generator, device=device)
        return torch.cat([offsets, flips * self.flip], dim=1)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Images (N, C, H, W) of any dtype, cropped and flipped by `parameters` (N, 3)."""
        return crop_flip(images, parameters, self.padding)


def crop_flip(images: Tensor, parameters: Tensor, padding: int) -> Tensor:
    """One gather on flat pixels: several times faster than slices or a loop over images."""
    n, c, h, w = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = torch.arange(h, device=images.device) + parameters[:, :1]
    columns = torch.arange(w, device=images.device).expand(n, w)
    columns = torch.where(parameters[:, 2:] > 0, w - 1 - columns, columns) + parameters[:, 1:2]
    pixels = rows[:, :, None] * (w + 2 * padding) + columns[:, None, :]
    flat = padded.flatten(2)
    return flat.gather(2, pixels.flatten(1)[:, None].expand(n, c, h * w)).view(n, c, h, w)
