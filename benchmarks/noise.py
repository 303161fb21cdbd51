"""Random images, where only time is measured."""

from __future__ import annotations

import torch

from backdoor_lab.datasets import DataSpec, ImageSet

SPEC = DataSpec("noise", tuple("0123456789"), (3, 32, 32), (0.5,) * 3, (0.25,) * 3, 4, True)


def noise(count: int) -> ImageSet:
    """`count` images of ten classes."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *SPEC.shape), generator=draw, dtype=torch.uint8)
    return ImageSet.of(pixels, torch.arange(count) % SPEC.num_classes)
