"""PreAct-ResNet18 for small images, the usual victim of backdoor papers.

Paper     He et al., Identity Mappings in Deep Residual Networks (ECCV 2016)
Differs   as in BackdoorBench: no batch normalisation after the stem nor after the last block, and
          shortcut convolutions without one
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn

from backdoor_lab.errors import ConfigError


class PreActBlock(nn.Module):
    """`x + conv2(relu(bn2(conv1(a))))` with `a = relu(bn1(x))`; a 1x1 shortcut starts from `a`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        skipped = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + skipped


class PreActResNet(nn.Module):
    """3x3 stem, four stages of two blocks, average pooling, `linear`.

    Args:
        num_classes: of the logits.
        in_chans: channels of the images.
        width: channels of the first stage, doubled at each further one; 16 or more, because
            gradients of narrower strided 1x1 convolutions overwrite memory in oneDNN 3.13.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, width: int = 64) -> None:
        super().__init__()
        if width < 16:
            raise ConfigError(f"model.options.width={width} is too narrow; allowed: 16 or more")
        self.conv1 = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(8 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, C, H, W) to logits (N, classes)."""
        maps = self.layer2(self.layer1(self.conv1(images)))
        maps = self.layer4(self.layer3(maps))
        return self.linear(self.pool(maps).flatten(1))


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(PreActBlock(inputs, outputs, stride), PreActBlock(outputs, outputs, 1))


@register_model
def preact_resnet18(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
    **options: Any,
) -> PreActResNet:
    """What timm calls; there are no pretrained weights."""
    del pretrained, pretrained_cfg, pretrained_cfg_overlay, cache_dir
    return PreActResNet(**options)
