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
    """What brings sigma (R,) down to tau std, where it lies above: the formula as printed."""
    return (tau * sigma.std() / sigma).clamp(max=1)


RULES: dict[Rule, Factors] = {"centred": centred, "clipped": clipped, "raw": raw}


def scale_rank_components(
    weight: Tensor, tau: float, factors: Factors = centred
) -> tuple[Tensor, int]:
    """The kernel (O, I, K, K) with its extreme components scaled down, and how many there were.

    Both unfoldings are decomposed; their singular values are judged together, and a factor c of a
    component multiplies the core along its mode: W' = W x1 (U1 c1 U1^T) x2 (U2 c2 U2^T).
    """
    exact = weight.double()
    left, rows, _ = torch.linalg.svd(exact.flatten(1), full_matrices=False)
    right, columns, _ = torch.linalg.svd(exact.transpose(0, 1).flatten(1), full_matrices=False)
    scale = factors(torch.cat([rows, columns]), tau)
    first, second = scale.split([len(rows), len(columns)])
    kept = (left * first) @ left.T, (right * second) @ right.T
    scaled = torch.einsum("po,oikl,qi->pqkl", kept[0], exact, kept[1])
    return scaled.to(weight.dtype), int((scale < 1).sum())


def convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """All convolutions with their names, grouped ones left out (the paper has none)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            yield name, module
