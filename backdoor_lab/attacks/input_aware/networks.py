"""The encoder-decoder that paints patterns and masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backdoor_lab.datasets import DataSpec
from backdoor_lab.models.classifier import Normalize

SHRINKAGE = 8  # three levels of pooling


class EncoderDecoder(nn.Module):
    """Images in [0, 1] to pictures in (0, 1) of the same size, without skip connections.

    Args:
        spec: channels and normalisation of the images; the sides are multiples of `SHRINKAGE`.
        channels: of the pictures.
        width: channels of the first level; each level has twice those of the one above.
        double_tanh: squash twice, which confines the pictures to (0.119, 0.881).
    """

    def __init__(self, spec: DataSpec, channels: int, width: int, double_tanh: bool) -> None:
        super().__init__()
        self.normalize = Normalize(spec.mean, spec.std)
        self.double_tanh = double_tanh
        one, two, four = width, 2 * width, 4 * width
        self.layers = nn.Sequential(
            *block(spec.shape[0], one), *block(one, one), nn.MaxPool2d(2),
            *block(one, two), *block(two, two), nn.MaxPool2d(2),
            *block(two, four), *block(four, four), nn.MaxPool2d(2),
            *block(four, four),
            enlarge(), *block(four, four), *block(four, two),
            enlarge(), *block(two, two), *block(two, one),
            enlarge(), *block(one, one),
        )  # fmt: skip
        self.last = nn.Sequential(*block(one, channels)[:-1])

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (N, channels, H, W) for images (N, C, H, W)."""
        features = self.layers(self.normalize(images))
        with torch.autocast(images.device.type, enabled=False):  # pixels in bf16 are too coarse
            raw = self.last(features.float())
            return squash(raw.tanh() if self.double_tanh else raw)


def block(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Convolution, BatchNorm, ReLU, at the same size."""
    norm = nn.BatchNorm2d(outputs, momentum=0.05)
    return nn.Conv2d(inputs, outputs, 3, padding=1), norm, nn.ReLU()


def enlarge() -> nn.Module:
    """Twice the sides, bilinearly."""
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)


def squash(raw: Tensor) -> Tensor:
    """Any number to (0, 1); 0 to 1/2."""
    return raw.tanh() / (2 + 1e-7) + 0.5


def threshold(pictures: Tensor) -> Tensor:
    """[0, 1] to nearly 0 or 1, steeply at 1/2."""
    return squash(20 * pictures - 10)
