"""The marks of LC: three by three cells, black and white, in the corners."""

from __future__ import annotations

import torch
from torch import Tensor

SIGNS = [[-1, -1, 1], [-1, 1, -1], [1, -1, 1]]  # of a right corner


def corner_signs(height: int, width: int, size: int, four: bool, mirror: bool) -> Tensor:
    """The mark (H, W) in {-1, 0, 1}: 3 x 3 cells in `size` x `size` pixels of each corner."""
    cells = torch.arange(size) * 3 // size
    right = torch.tensor(SIGNS).float()[cells][:, cells]
    left = right.flip(1) if mirror else right
    signs = torch.zeros(height, width)
    signs[-size:, -size:] = right
    if four:
        signs[:size, -size:] = right
        signs[:size, :size] = signs[-size:, :size] = left
    return signs


def mark(images: Tensor, signs: Tensor, amplitude: float) -> Tensor:
    """Images (N, C, H, W) plus `amplitude * signs` (H, W), clipped to [0, 1]."""
    return (images + amplitude * signs).clamp(0, 1)
