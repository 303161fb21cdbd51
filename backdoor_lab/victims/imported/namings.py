"""The names that others give to a network's weights, and ours for them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
NAMINGS: tuple[Rules, ...] = (
    (),  # timm's own; torchvision's ResNets and DenseNets are called alike
    ((r"\.shortcut\.0\.", ".shortcut."),),  # BackdoorBench's PreAct-ResNet18
    ((r"^classifier\.0\.", "pre_logits.fc1."), (r"^classifier\.3\.", "pre_logits.fc2."),
     (r"^classifier\.6\.", "head.fc.")),  # torchvision's VGGs, which BackdoorBench takes
    ((r"\.shortcut\.(\d)\.", r".downsample.\1."), (r"^linear\.", "fc.")),  # ResNets for CIFAR
    ((r"^resnet\.embedder\.embedder\.convolution\.", "conv1."),
     (r"^resnet\.embedder\.embedder\.normalization\.", "bn1."),
     (r"^resnet\.encoder\.stages\.(\d)\.layers\.", lambda m: f"layer{int(m[1]) + 1}."),
     (r"\.shortcut\.convolution\.", ".downsample.0."),
     (r"\.shortcut\.normalization\.", ".downsample.1."),
     (r"\.layer\.(\d)\.convolution\.", lambda m: f".conv{int(m[1]) + 1}."),
     (r"\.layer\.(\d)\.normalization\.", lambda m: f".bn{int(m[1]) + 1}."),
     (r"^classifier\.1\.", "fc.")),  # transformers' ResNets
)  # fmt: skip
DEPTH = 5  # of what a network was wrapped in


def readings(names: Iterable[str]) -> list[dict[str, str]]:
    """Every way to read a file's names as ours: ours to theirs, for each prefix and each rule."""
    known = list(names)
    return [
        {
            renamed(name.removeprefix(prefix), rules): name
            for name in known
            if name.startswith(prefix)
        }
        for prefix in prefixes(known)
        for rules in NAMINGS
    ]


def prefixes(names: list[str]) -> Iterator[str]:
    """What a network may have been wrapped in: nothing, then what most names begin with."""
    prefix = ""
    yield prefix
    for _ in range(DEPTH):
        firsts = Counter(
            name.removeprefix(prefix).partition(".")[0]
            for name in names
            if name.startswith(prefix) and "." in name.removeprefix(prefix)
        )
        if not firsts:
            return
        prefix += f"{firsts.most_common(1)[0][0]}."
        yield prefix


def renamed(name: str, rules: Rules) -> str:
    """Our name for one of theirs."""
    for pattern, ours in rules:
        name = re.sub(pattern, ours, name)
    return name
