"""The layers of a model from the images to the logits, grouped by resolution."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from backdoor_lab.models.tracing import traced

SIDE = 224
"""Pixels of the image that tells maps from vectors: in small ones both can be a single pixel."""


def parted(model: nn.Module, channels: int) -> tuple[list[str], list[str]] | None:
    """Names of conv and linear layers in their order: (those up to the last feature map, the head).

    The head begins with the layer that reads the last map: the linear one of a ResNet, and a
    convolution of the pooled map where one stands before it, as in timm's VGG19 and MobileNetV3.
    None where it cannot be told.

    Args:
        model: read only.
        channels: of an image.
    """
    sizes: dict[str, torch.Size] = {}

    def look(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes[name] = output.shape

    try:
        traced(model, (channels, SIDE, SIDE), look, (nn.Conv2d, nn.Linear))
    except (AssertionError, RuntimeError):  # an architecture for images of one size
        return None
    names = list(sizes)
    spatial = [number for number, name in enumerate(names) if prod(sizes[name][2:]) > 1]
    if not spatial or spatial[-1] + 1 == len(names):
        return None
    return names[: spatial[-1] + 1], names[spatial[-1] + 1 :]


def stages(model: nn.Module, shape: tuple[int, int, int]) -> list[list[str]]:
    """Names of conv and linear layers: [stem, body group 1, ..., body group K, head].

    The head is what reads the pooled map, and all behind it: convolutions, too, that are linear
    layers in disguise, as in timm's VGG. The body is grouped by resolution; all layers of
    a block have that of its output. A block is an outermost module that does not hold the stem and
    is no plain `Sequential`. Of more than four groups the earliest are merged.

    Args:
        model: read only.
        shape: (C, H, W) of an image.
    """
    sizes = _output_sizes(model, shape)
    names = [name for name in sizes if isinstance(model.get_submodule(name), nn.Conv2d | nn.Linear)]
    stem, last = names[0], max(n for n, name in enumerate(names) if len(sizes[name]) > 2)
    if parts := parted(model, shape[0]):
        last = names.index(parts[0][-1])
    groups: dict[int, list[str]] = {}
    for name in names[1 : last + 1]:
        size = sizes[_block(model, name, stem, sizes)]
        groups.setdefault(size[-1] if len(size) == 4 else 0, []).append(name)
    body = [groups[side] for side in sorted(groups, reverse=True)]
    while len(body) > 4:
        body[:2] = [body[0] + body[1]]
    return [[stem], *body, names[last + 1 :]]


def outlets(model: nn.Module, shape: tuple[int, int, int]) -> dict[str, tuple[int, int]]:
    """Where each resolution (H, W) that layers compute at is left, by name, the largest first.

    That is after the last block with layers in it, or after the last module where no block has
    any, blocks as in `stages`. What pools to a resolution that no layer computes at does not count.

    Args:
        model: read only.
        shape: (C, H, W) of an image.
    """
    sizes = _output_sizes(model, shape)
    modules = {name: model.get_submodule(name) for name in sizes}
    layers = [name for name in sizes if isinstance(modules[name], nn.Conv2d | nn.Linear)]
    stem = layers[0]
    around = {name: _block(model, name, stem, sizes) for name in sizes}
    blocks = {around[name] for name in layers} - set(layers)
    last: dict[torch.Size, str] = {}
    for name, size in sizes.items():
        inner = around[name] != name or len(size) != 4
        if inner or isinstance(modules[name], nn.Sequential) or stem.startswith(f"{name}."):
            continue
        if name in blocks or last.get(size[2:]) not in blocks:
            last[size[2:]] = name
    computed = {sizes[around[name]][2:] for name in layers}
    found = sorted(last.items(), key=lambda item: -item[0].numel())
    return {name: (size[0], size[1]) for size, name in found if size in computed}


def _output_sizes(model: nn.Module, shape: tuple[int, int, int]) -> dict[str, torch.Size]:
    """The shape of what each module puts out for one image, in the order in which they run."""
    sizes: dict[str, torch.Size] = {}

    def look(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        sizes[name] = getattr(output, "shape", torch.Size())

    traced(model, shape, look)
    return sizes


def _block(model: nn.Module, name: str, stem: str, sizes: dict[str, torch.Size]) -> str:
    """The block around layer `name`, or the layer itself where it stands in no block."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        outer = ".".join(parts[:depth])
        plain = isinstance(model.get_submodule(outer), nn.Sequential)
        if not plain and not stem.startswith(f"{outer}.") and len(sizes.get(outer, ())) == 4:
            return outer
    return name
