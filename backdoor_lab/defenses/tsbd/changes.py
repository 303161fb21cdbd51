"""What unlearning has changed, and which of it is zeroed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from backdoor_lab.models import traced


def filters(model: nn.Module, shape: tuple[int, int, int]) -> dict[str, int]:
    """The convolutions whose filters compete: the name of the weight, and how many filters.

    All but two kinds. A projection shortcut: 1x1, beside a wider kernel that reads the same maps,
    or, in a bottleneck, beside one with fewer filters, or a smaller stride. A linear layer in
    disguise: it covers its whole input, as in timm's VGG, or comes after that.

    Args:
        model: read only.
        shape: (C, H, W) of an image.
    """
    seen: list[tuple[str, nn.Conv2d, Tensor]] = []

    def look(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            seen.append((name, module, inputs[0]))

    traced(model, shape, look)
    found = {}
    for name, conv, maps in seen:
        spatial = max(conv.kernel_size) > 1
        if spatial and conv.padding == (0, 0) and conv.kernel_size == maps.shape[2:]:
            break
        beside = [other for _, other, read in seen if read is maps and other is not conv]
        if spatial or not any(is_branch(other, conv) for other in beside):
            found[f"{name}.weight"] = conv.out_channels
    return found


def is_branch(conv: nn.Conv2d, shortcut: nn.Conv2d) -> bool:
    """Whether a layer begins the branch that a 1x1 `shortcut` of the same maps goes round."""
    first, other = (conv.out_channels, conv.stride), (shortcut.out_channels, shortcut.stride)
    return max(conv.kernel_size) > 1 or first < other


def most_changed(changes: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Which filters (O,) of each layer are among the `count` that changed most in all.

    Args:
        changes: |after - before| (O, I, K, K) of each layer; a filter's change is the sum of its
            weights', so wide layers come first.
        count: of filters, over all layers.
    """
    sums = {name: change.flatten(1).sum(1) for name, change in changes.items()}
    ranked = torch.cat(list(sums.values())).sort(descending=True, stable=True).indices
    chosen = torch.zeros(len(ranked), dtype=torch.bool, device=ranked.device)
    chosen[ranked[:count]] = True
    parts = chosen.split([len(scores) for scores in sums.values()])
    return dict(zip(sums, parts, strict=True))


def most_changed_within(
    changes: dict[str, Tensor], chosen: dict[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Which weights (O, I, K, K) in `chosen` filters (O,) are the `share` that changed most.

    One threshold for all filters, so some lose more than others; weights level with it are in.
    """
    pool = torch.cat([change[chosen[name]].flatten() for name, change in changes.items()])
    count = int(share * len(pool))
    if not count:
        return {
            name: torch.zeros_like(change, dtype=torch.bool) for name, change in changes.items()
        }
    threshold = pool.kthvalue(len(pool) - count + 1).values
    return {
        name: (change >= threshold) & chosen[name][:, None, None, None]
        for name, change in changes.items()
    }
