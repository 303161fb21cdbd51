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
    """Crop and rotation, each applied to a batch or not by chance; a flip where the data set flips.

    Offsets, angles and flips are drawn per image, as in the authors' releases of WaNet and COMBAT
    (which turn each image of a batch by chance again); BackdoorBench draws them per batch. A
    rotation takes the nearest pixel, as BackdoorBench's; the releases' is bilinear. What a view
    uncovers is black, where both have the mean colour.

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

    def __call__(
        self, images: Tensor, cpu_generator: torch.Generator, generator: torch.Generator
    ) -> Tensor:
        """Views of images (N, C, H, W).

        `cpu_generator` draws what is decided per batch, without a synchronisation; `generator`,
        on the device of the images, what is drawn per image.
        """
        chance = torch.rand(2, generator=cpu_generator)
        crop = CropFlip(self.padding, self.flip)
        parameters = crop.draw(len(images), generator)
        if chance[0] >= self.crop_probability:
            parameters[:, :2] = self.padding
        images = crop.apply(images, parameters)
        if chance[1] < self.rotation_probability and self.rotation:
            turns = torch.rand(len(images), generator=generator, device=images.device) * 2 - 1
            images = rotate(images, turns * math.radians(self.rotation))
        return images.contiguous(memory_format=torch.channels_last)


def rotate(images: Tensor, angles: Tensor) -> Tensor:
    """Images (N, C, H, W) turned by `angles` (N,) radians, nearest pixel, black outside."""
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    with torch.autocast(images.device.type, enabled=False):  # a grid in bf16 is too coarse
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid.to(images.dtype), mode="nearest", align_corners=False)


def portion(rate: float, size: int, cpu_generator: torch.Generator) -> int:
    """How many of `size` images a rate means, rounded down; of less than one, one by chance."""
    count = rate * size
    return int(count) if count >= 1 else int(torch.rand((), generator=cpu_generator) < count)


def generators(
    seed: int, purpose: str, device: torch.device
) -> tuple[torch.Generator, torch.Generator]:
    """The generators of one purpose on the CPU and on `device`."""
    return generator_for(seed, purpose), generator_for(seed, purpose, device)
