"""LIRA's bounded noise, and the generators of it: images (N, C, H, W) to noise in (-1, 1)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backdoor_lab.datasets import DataSpec
from backdoor_lab.models.classifier import Normalize


class Autoencoder(nn.Module):
    """Four strided convolutions down, four transposed ones up; sides divisible by 16."""

    divisor = 16

    def __init__(self, channels: int) -> None:
        super().__init__()
        down = [channels, 16, 32, 64, 128]
        up = down[:0:-1]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in pairwise(down)
            ),
            *(
                nn.Sequential(nn.ConvTranspose2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in pairwise(up)
            ),
            nn.ConvTranspose2d(up[-1], channels, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class ConcatUNet(nn.Module):
    """Three levels with average pooling and concatenated skips; sides divisible by 8."""

    divisor = 8

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [64, 128, 256, 512]
        self.down = nn.ModuleList(double(a, b) for a, b in pairwise([channels, *widths]))
        self.up = nn.ModuleList(double(a + b, a) for a, b in pairwise(widths))
        self.last = nn.Sequential(
            nn.Conv2d(widths[0], channels, 1), nn.BatchNorm2d(channels), nn.Tanh()
        )

    def forward(self, images: Tensor) -> Tensor:
        first, *deeper = self.down
        skips = [first(images)]
        for level in deeper:
            skips.append(level(F.avg_pool2d(skips[-1], 2)))
        noise = skips.pop()
        for level in reversed(self.up):
            noise = F.interpolate(noise, scale_factor=2, mode="bilinear", align_corners=True)
            noise = level(torch.cat([noise, skips.pop()], dim=1))
        return self.last(noise)


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Twice a 3x3 convolution, BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip


class Perturb(nn.Module):
    """x + eps * G(x) with x normalised; takes and gives images (N, C, H, W) in [0, 1]."""

    def __init__(self, net: nn.Module, spec: DataSpec, eps: float) -> None:
        super().__init__()
        self.net = net
        self.normalize = Normalize(spec.mean, spec.std)
        self.eps = eps

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):  # in bf16 the noise is too coarse
            noise = self.net(self.normalize(images))
            return (images + self.eps * self.normalize.std * noise).clamp(0, 1)
