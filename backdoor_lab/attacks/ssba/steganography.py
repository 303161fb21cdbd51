"""Networks that hide a code in an image and read it again, as StegaStamp's.

Paper     Tancik et al., StegaStamp: Invisible Hyperlinks in Physical Photographs, CVPR 2020,
          arXiv:1904.05343
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHEET = 16  # the code is first drawn on so many pixels a side


class Encoder(nn.Module):
    """A U-Net that repaints an image so that it carries a code.

    Args:
        bits: length L of the code.
        channels: C of the images.
        width: channels of the first layer; the others go with it.
        residual: paint a difference to the image instead of the whole image.
    """

    def __init__(self, bits: int, channels: int, width: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        seen = 2 * channels
        downs = [width, width, 2 * width, 4 * width, 8 * width]
        ups = [4 * width, 2 * width, width, width]
        merged = [8 * width, 4 * width, 2 * width, 2 * width + seen]
        self.sheet = nn.Linear(bits, channels * SHEET**2)
        self.first = nn.Conv2d(seen, width, 3, padding=1)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(downs))
        self.ups = nn.ModuleList(nn.Conv2d(a, b, 2) for a, b in pairwise([8 * width, *ups]))
        self.merges = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(merged, ups, strict=True)
        )
        self.last = nn.Conv2d(width, width, 3, padding=1)
        self.paint = nn.Conv2d(width, channels, 1)

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        """Images (N, C, H, W) with `codes` (N, L) in them; the residual form may leave [0, 1]."""
        n, channels, height, width = images.shape
        sheet = self.sheet(codes).relu().view(n, channels, SHEET, SHEET)
        seen = torch.cat([images, F.interpolate(sheet, size=(height, width))], dim=1)
        steps = [self.first(seen).relu()]
        for down in self.downs:
            steps.append(down(steps[-1]).relu())
        x = steps.pop()
        steps[0] = torch.cat([steps[0], seen], dim=1)
        for up, merge in zip(self.ups, self.merges, strict=True):
            enlarged = F.pad(F.interpolate(x, scale_factor=2), (0, 1, 0, 1))
            x = merge(torch.cat([up(enlarged).relu(), steps.pop()], dim=1)).relu()
        painted = self.paint(self.last(x).relu())
        return images + painted if self.residual else painted.sigmoid()


class Decoder(nn.Sequential):
    """Images (N, C, H, W) to logits (N, L) of the bits they carry.

    Args:
        bits: length L of the code.
        shape: (C, H, W) of the images, H and W multiples of 32.
        width: channels of the first layer; the others go with it.
    """

    def __init__(self, bits: int, shape: tuple[int, int, int], width: int) -> None:
        channels, height, length = shape
        sizes = [channels, width, width, *[2 * width] * 3, *[4 * width] * 2]
        strides = [2, 1, 2, 1, 2, 2, 2]
        layers: list[nn.Module] = []
        for (a, b), stride in zip(pairwise(sizes), strides, strict=True):
            layers += [nn.Conv2d(a, b, 3, stride, 1), nn.ReLU()]
        cells = (height // 32) * (length // 32)
        layers += [nn.Flatten(), nn.Linear(4 * width * cells, 16 * width), nn.ReLU()]
        super().__init__(*layers, nn.Linear(16 * width, bits))


class Coder(nn.Module):
    """An encoder and the decoder that is trained with it; arguments as above.

    Both begin with He's weights: with PyTorch's smaller ones the code fades in so many layers, and
    narrow networks may never learn to read it.
    """

    def __init__(self, bits: int, shape: tuple[int, int, int], width: int, residual: bool) -> None:
        super().__init__()
        self.encoder = Encoder(bits, shape[0], width, residual)
        self.decoder = Decoder(bits, shape, width)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            else:
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded images (N, C, H, W), and logits (N, L) of what is read from them."""
        encoded = self.encoder(images, codes)
        return encoded, self.decoder(encoded)
