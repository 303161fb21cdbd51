"""torchvision's mobile networks: the numbers of their layers are the order of ours."""

from __future__ import annotations

from typing import Any

from backdoor_lab.victims.imported.layout import Shapes

BODY, HEAD = "features", "classifier"
EPS = 1e-3  # of BatchNorm in torchvision's MobileNetV3 and its EfficientNets above B4; timm 1e-5
B4 = 257  # layers of EfficientNet-B4


def in_sequence(way: dict[str, str], expected: Shapes) -> dict[str, str]:
    """One more way to read a file's names: its layers are ours, one after the other.

    Args:
        way: a reading, names without prefix to theirs.
        expected: our shapes by name, in the order of the layers, the head last.

    Returns:
        Ours to theirs; nothing where the file is no such network.
    """
    layers = sorted({parts[0] for name in way if (parts := split(name))[0]}, key=order)
    ours = list(dict.fromkeys(split(name)[0] for name in expected))
    numbered = all(layer.startswith((f"{BODY}.", f"{HEAD}.")) for layer in layers)
    if not numbered or len(layers) != len(ours):
        return {}
    called = dict(zip(layers, ours, strict=True))
    return {f"{called[split(n)[0]]}.{split(n)[1]}": theirs for n, theirs in way.items()}


def split(name: str) -> tuple[str, str]:
    """A weight's layer, and what it is there."""
    layer, _, kind = name.rpartition(".")
    return layer, kind


def order(layer: str) -> list[tuple[bool, int, str]]:
    """Orders layers as they follow each other: the body first, numbers as numbers."""
    first, *rest = layer.split(".")
    parts = [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in rest]
    return [(first != BODY, 0, first), *parts]


def options_of(way: dict[str, str]) -> dict[str, Any]:
    """What timm's model must be told to compute as the file's does."""
    layers = {split(name)[0] for name in way}
    two_heads = sum(layer.startswith(f"{HEAD}.") for layer in layers) > 1  # MobileNetV3
    return {"bn_eps": EPS} if two_heads or len(layers) > B4 else {}
