"""Rank scaling of convolutions: components with an extreme normalised singular value shrink.

Paper     Clean & Compact (Phan et al., "Clean and Compact: Efficient Data-Free Backdoor Defense
          with Model Compactness", ECCV 2024), Eqs. 5 to 7; the defense and the attacker who
          knows it share this file
Differs   the printed factor min(tau s / z, 1) is negative for half of the components; `centred` is
          what fits the paper's prose
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from backdoor_lab.models.stages import parted
from backdoor_lab.models.tucker import Tucker

Rule = Literal["centred", "clipped", "raw"]
Factors = Callable[[Tensor, float], Tensor]


def centred(sigma: Tensor, tau: float) -> Tensor:
    """Tau / z where z = (sigma - mean) / std exceeds tau, else 1; sigma (R,) in, factors out."""
    z = (sigma - sigma.mean()) / sigma.std()
    return torch.where(z > tau, tau / z, 1.0)


def clipped(sigma: Tensor, tau: float) -> Tensor:
    """What brings sigma (R,) down to mean + tau std, where it lies above."""
    return ((sigma.mean() + tau * sigma.std()) / sigma).clamp(max=1)


def raw(sigma: Tensor, tau: float) -> Tensor:
    """What brings sigma (R,) down to tau std, where it lies above: the print, with sigma for z."""
    return (tau * sigma.std() / sigma).clamp(max=1)


RULES: dict[Rule, Factors] = {"centred": centred, "clipped": clipped, "raw": raw}


def scaled_form(form: Tucker, tau: float, factors: Factors = centred) -> tuple[Tucker, int]:
    """`form` with its extreme components scaled down, and how many there were.

    The singular values of both unfoldings are judged together; the factor of a component multiplies
    the core along its mode.
    """
    scale = factors(torch.cat([form.rows, form.columns]), tau)
    first, second = scale.split([len(form.rows), len(form.columns)])
    return form.scaled(first, second), int((scale < 1).sum())


def scale_rank_components(
    weight: Tensor, tau: float, factors: Factors = centred
) -> tuple[Tensor, int]:
    """The kernel (O, I, K, K) with its extreme components scaled down, and how many there were."""
    form, count = scaled_form(Tucker.of(weight), tau, factors)
    return form.kernel.to(weight.dtype), count


def convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """All convolutions with their names, but for two kinds.

    Grouped ones have too few components for one to be extreme. Those behind the last feature map
    are linear layers in disguise, which the paper leaves as they are.
    """
    found = {name: one for name, one in model.named_modules() if isinstance(one, nn.Conv2d)}
    parts = parted(model, next(iter(found.values())).in_channels) if found else None
    for name, module in found.items():
        if module.groups == 1 and not (parts and name in parts[1]):
            yield name, module
