"""The layer that is put into the victim, and its place there."""

from __future__ import annotations

from typing import Literal

from torch import nn

from backdoor_lab.models import traced

Kind = Literal["convbn", "onlyconv", "twoconv", "linear_light"]


def polarizer(kind: Kind, channels: int) -> nn.Sequential:
    """Linear in maps (N, `channels`, H, W), each pixel alike; the identity at the start.

    `convbn`: 1x1 convolution, BatchNorm; `twoconv`: that twice; `onlyconv`: without BatchNorm;
    `linear_light`: scale and shift of each channel.
    """
    layers: list[nn.Module] = []
    for _ in range(2 if kind == "twoconv" else 1):
        groups = channels if kind == "linear_light" else 1
        mix = nn.Conv2d(channels, channels, 1, groups=groups, bias=kind == "linear_light")
        nn.init.dirac_(mix.weight, groups)
        if mix.bias is not None:
            nn.init.zeros_(mix.bias)
        layers.append(mix)
        if kind in ("convbn", "twoconv"):
            layers.append(nn.BatchNorm2d(channels))
    return nn.Sequential(*layers)


def place(model: nn.Module, shape: tuple[int, int, int]) -> str | None:
    """The convolution before which the polarizer stands, late but with layers left to act on.

    It is the last spatial one (kernel above 1x1) that BatchNorm or another spatial one follows; of
    a depthwise one, whose input is wide, the convolution before it.

    Args:
        model: read only.
        shape: (C, H, W) of an image.

    Returns:
        None where there is none.
    """
    layers: list[tuple[str, nn.Module]] = []
    traced(model, shape, lambda name, layer, *_: layers.append((name, layer)))
    convs = [name for name, layer in layers if isinstance(layer, nn.Conv2d)]
    followed = False
    for name, layer in reversed(layers):
        spatial = isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1
        if isinstance(layer, nn.Conv2d) and spatial and followed:
            depthwise = layer.groups == layer.in_channels > 1
            return convs[max(0, convs.index(name) - depthwise)]
        followed = followed or spatial or isinstance(layer, nn.BatchNorm2d)
    return None
