"""How attacks that stamp inside the training augment what they stamped."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from backdoor_lab.seeds import generator_for
from backdoor_lab.training import CropFlip


@dataclass(frozen=True)
class Views:
    """Crop and rotation, each by a coin per batch, and a flip where the data set flips.

    Offsets, angles and flips are drawn per image, as in the authors' releases of WaNet and COMBAT;
    BackdoorBench draws them per batch. A rotation takes the nearest pixel, as BackdoorBench's;
    the releases' is bilinear. What a view uncovers is black, where both have the mean colour.

    Attributes:
        padding: of the crop, in pixels.
        crop_probability: of the crop, per batch.
        rotation: up to so many degrees.
        rotation_probability: of the rotation, per batch.
        flip: whether half of the images are mirrored.
    """

    padding: int
    crop_probability: float
    rotation: float
    rotation_probability: float
    flip: bool

    def __call__(self, images: Tensor, coins: torch.Generator, dice: torch.Generator) -> Tensor:
        """Views of images (N, C, H, W); `coins` lies on the CPU, `dice` where the images lie."""
        heads = torch.rand(2, generator=coins)
        crop = CropFlip(self.padding, self.flip)
        parameters = crop.draw(len(images), dice)
        if heads[0] >= self.crop_probability:
            parameters[:, :2] = self.padding
        images = crop.apply(images, parameters)
        if heads[1] < self.rotation_probability and self.rotation:
            turn = torch.rand(len(images), generator=dice, device=images.device) * 2 - 1
            images = rotate(images, turn * math.radians(self.rotation))
        return images.contiguous(memory_format=torch.channels_last)


def rotate(images: Tensor, angles: Tensor) -> Tensor:
    """Images (N, C, H, W) turned by `angles` (N,) radians, nearest pixel, black outside."""
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    with torch.autocast(images.device.type, enabled=False):  # a grid in bf16 is too coarse
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid.to(images.dtype), mode="nearest", align_corners=False)


def portion(rate: float, size: int, coins: torch.Generator) -> int:
    """How many of `size` images a rate means, rounded down; below one, one with that chance."""
    share = rate * size
    return int(share) if share >= 1 else int(torch.rand((), generator=coins) < share)


def streams(
    seed: int, purpose: str, device: torch.device
) -> tuple[torch.Generator, torch.Generator]:
    """The coins (CPU) and the dice (`device`) of one purpose."""
    return generator_for(seed, purpose), generator_for(seed, purpose, device)
