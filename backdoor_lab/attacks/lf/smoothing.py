"""What makes a perturbation smooth: a Gaussian along rows and columns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian(taps: int, sigma: float) -> Tensor:
    """A normalised Gaussian (taps,) around the middle."""
    places = torch.arange(taps) - (taps - 1) / 2
    weights = torch.exp(-0.5 * (places / sigma) ** 2)
    return weights / weights.sum()


def gaussian_low_pass(values: Tensor, kernel: Tensor) -> Tensor:
    """`values` (C, H, W) convolved with `kernel` (taps,) along rows and columns, 0 outside."""
    before, after = (len(kernel) - 1) // 2, len(kernel) // 2
    padded = F.pad(values, (before, after, before, after))[:, None]
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]


def stretched(values: Tensor) -> Tensor:
    """`values` moved and scaled to [0, 1]; 0 where they are all the same."""
    low, high = values.aminmax()
    return (values - low) / (high - low) if high - low > 1e-12 else torch.zeros_like(values)
