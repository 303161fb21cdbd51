"""Channel pruning that makes a model smaller: pruned channels are taken out where they can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from backdoor_lab.defenses._base import Defense
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import parameter_count
from backdoor_lab.models.channels import removal, shrink, sites, smallest


def check_compression(defense: Defense, model: nn.Module, ratio: float | None) -> None:
    """Refuse a ratio that the removable channels of `model` do not allow.

    Raises:
        ConfigError: says what they allow.
    """
    if ratio is None:
        return
    whole = parameter_count(model)
    most = int(100 * whole / smallest(model, sites(model, defense.spec.shape))) / 100
    if ratio > most:
        raise ConfigError(
            f"{defense.key}.compression={ratio:g} is out of reach: channels in residual sums, "
            "concatenations and grouped convolutions cannot be taken out of this model; allowed: "
            + (f"null, or up to {most}" if most > 1 else "null")
        )


@torch.no_grad()
def compress(
    model: nn.Module,
    shape: tuple[int, int, int],
    scores: Mapping[str, Tensor],
    pruned: Mapping[str, Tensor],
    ratio: float,
) -> dict[str, Any]:
    """Take channels out of `model`, in place, until 1 / `ratio` of its parameters are left.

    Args:
        model: a classifier.
        shape: (C, H, W) of an image.
        scores: by BatchNorm, of its channels (C,); the lowest go first.
        pruned: which of them are pruned already; these go in any case, where they can.
        ratio: parameters before, in those after.

    Returns:
        For the report: parameters, channels that were taken out, and pruned ones that had to stay.
    """
    whole = parameter_count(model)
    places = sites(model, shape)
    ranked = {name: one.masked_fill(pruned[name], -torch.inf) for name, one in scores.items()}
    stays = removal(model, places, ranked, ratio)
    shrink(model, places, stays)
    zeroed = 0
    for name, gone in pruned.items():
        here = stays.get(name, torch.ones(len(gone), dtype=torch.bool))
        zeroed += int((gone.cpu() & here).sum())
    return {
        "parameters": {"before": whole, "after": parameter_count(model)},
        "removed": {name: int((~kept).sum()) for name, kept in stays.items() if not kept.all()},
        "zeroed": zeroed,
    }
