"""What takes high frequencies from images: a cut of their cosine transform, and a blur."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dct_matrix(size: int, device: torch.device | None = None) -> Tensor:
    """The orthonormal DCT-II (size, size) in float32; row k is the k-th cosine."""
    positions = torch.arange(size, device=device, dtype=torch.float64)
    cosines = torch.cos(math.pi / size * positions[:, None] * (positions + 0.5))
    scales = torch.full_like(positions, math.sqrt(2 / size))
    scales[0] = math.sqrt(1 / size)
    return (scales[:, None] * cosines).float()


def dct_low_pass(images: Tensor, ratio: float) -> Tensor:
    """Images (N, C, H, W) without all but their lowest `ratio * H` by `ratio * W` frequencies."""
    with torch.autocast(images.device.type, enabled=False):  # in bf16 frequencies would leak
        rows, columns = (
            dct_matrix(size, images.device)[: int(ratio * size + 1e-9)] for size in images.shape[2:]
        )
        return (rows.T @ rows) @ images.float() @ (columns.T @ columns)


def blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Images (N, C, H, W) through a 3x3 Gaussian of `sigmas` (N,), mirrored at the border."""
    side = torch.exp(-0.5 / sigmas.square()).view(-1, 1, 1, 1)
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    rows = padded[..., 1:-1, :] + side * (padded[..., :-2, :] + padded[..., 2:, :])
    both = rows[..., 1:-1] + side * (rows[..., :-2] + rows[..., 2:])
    return both / (1 + 2 * side).square()
