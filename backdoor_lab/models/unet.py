"""A U-Net from images to images of the same size, that begins near the identity."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEARLY = 1e-3  # of the last layer: at the identity itself a squared change has no gradient


class UNet(nn.Module):
    """Adds to images in [0, 1] what it was trained to add; at first next to nothing.

    Sides that cannot be halved so often are enlarged on the way and cut back.

    Args:
        channels: of the images.
        width: channels of the finest level; each level below has twice as many.
        levels: resolutions, the images' own included.
    """

    def __init__(self, channels: int, width: int = 32, levels: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        pairs = list(pairwise(widths))
        self.stem = block(channels, width)
        self.down = nn.ModuleList(block(inside, outside) for inside, outside in pairs)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, above, 2, stride=2) for above, below in reversed(pairs)
        )
        self.join = nn.ModuleList(block(2 * above, above) for above, _ in reversed(pairs))
        self.last = nn.Conv2d(width, channels, 1)
        nn.init.normal_(self.last.weight, std=NEARLY)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1], changed, in the same shape and range."""
        height, width = images.shape[2:]
        multiple = 2 ** len(self.down)
        right, below = (max(-side % multiple, 2 * multiple - side) for side in (width, height))
        margins = (0, right, 0, below)  # InstanceNorm knows no single pixel
        maps = self.stem(F.pad(images, margins, mode="replicate"))
        skips: list[Tensor] = []
        for descend in self.down:
            skips.append(maps)
            maps = descend(F.max_pool2d(maps, 2))
        for ascend, join in zip(self.up, self.join, strict=True):
            maps = join(torch.cat([ascend(maps), skips.pop()], 1))
        return (images + self.last(maps)[..., :height, :width]).clamp(0, 1)


def block(inside: int, outside: int) -> nn.Sequential:
    """Twice a 3x3 convolution with InstanceNorm and ReLU."""
    layers: list[nn.Module] = []
    for inputs in (inside, outside):
        layers += [nn.Conv2d(inputs, outside, 3, padding=1, bias=False)]
        layers += [nn.InstanceNorm2d(outside, affine=True), nn.ReLU()]
    return nn.Sequential(*layers)
