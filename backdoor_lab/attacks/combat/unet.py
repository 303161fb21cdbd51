"""COMBAT's generator: a U-Net with added skips, whose output has the size of the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AddingUNet(nn.Module):
    """Images (N, C, H, W) to noise in [-1, 1] of the same shape; H and W divisible by 16.

    Args:
        channels: of images and noise.
        width: channels of the finest level; each level below has twice as many.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv(channels, width, stride=2),
            nn.LeakyReLU(0.2),
            conv(width, width),
            nn.InstanceNorm2d(width),
        )
        self.down = nn.ModuleList(descent(width * scale, width * scale * 2) for scale in (1, 2, 4))
        self.up = nn.ModuleList(
            nn.Sequential(ascent(width * scale, width * scale // 2), nn.InstanceNorm2d(out))
            for scale, out in ((8, width * 4), (4, width * 2), (2, width))
        )
        self.last = ascent(width, channels)

    def forward(self, images: Tensor) -> Tensor:
        """Noise in [-1, 1]; what a level hands across is what it hands down, activated."""
        levels = self.stem(images)
        skips: list[Tensor] = []
        for descend in self.down:
            skips.append(F.leaky_relu(levels, 0.2))
            levels = descend(skips[-1])
        for ascend in self.up:
            levels = ascend(levels) + skips.pop()
        return torch.tanh(self.last(levels))


def conv(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
    """3x3 with padding and bias."""
    return nn.Conv2d(inside, outside, 3, stride, padding=1)


def descent(inside: int, outside: int) -> nn.Sequential:
    """Halves the side of activated images."""
    return nn.Sequential(
        conv(inside, outside, stride=2),
        nn.InstanceNorm2d(outside),
        nn.LeakyReLU(0.2),
        conv(outside, outside),
        nn.InstanceNorm2d(outside),
    )


def ascent(inside: int, outside: int) -> nn.Sequential:
    """Doubles the side of images."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        nn.LeakyReLU(0.2),
        conv(inside, inside),
        nn.InstanceNorm2d(inside),
        nn.LeakyReLU(0.2),
        conv(inside, outside),
    )
