"""Points on a curve through the weights of several models, and the rate that suits its training."""

from __future__ import annotations

from functools import reduce
from math import comb
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def mixture(shares: list[float], models: list[list[Tensor]]) -> list[Tensor]:
    """The sum of `models`, lists of tensors of the same shapes, times their `shares`."""
    return [
        reduce(torch.add, (share * weight for share, weight in zip(shares, weights, strict=True)))
        for weights in zip(*models, strict=True)
    ]


def bezier(t: float, points: int) -> list[float]:
    """Shares of n + 1 points at t on their Bezier curve: binom(n, i) t^i (1 - t)^(n - i)."""
    n = points - 1
    return [comb(n, i) * t**i * (1 - t) ** (n - i) for i in range(points)]


def chain(t: float, points: int) -> list[float]:
    """Shares of n + 1 points at t on the straight lines between them: max(0, 1 - |t n - i|)."""
    n = points - 1
    return [max(0.0, 1 - abs(t * n - i)) for i in range(points)]


def late_fall(optimizer: Optimizer, epochs: int, steps: int) -> dict[str, Any]:
    """The whole rate in the first half; from there straight to a hundredth at nine tenths."""
    del steps

    def factor(epoch: int) -> float:
        return min(1.0, max(0.01, 1 - 0.99 * ((epoch + 1) / epochs - 0.5) / 0.4))

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "epoch"}
