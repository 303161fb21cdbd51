"""Tucker-2: a kernel as a small core between two matrices, and as three smaller convolutions.

Paper     Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power
          Mobile Applications", ICLR 2016, arXiv:1511.06530
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init


@dataclass(frozen=True)
class Tucker:
    """W = core x1 left x2 right of a kernel W (O, I, K, K), in double precision.

    Attributes:
        left: orthonormal columns (O, r1) that mix the outputs.
        core: (r1, r2, K, K).
        right: orthonormal columns (I, r2) that mix the inputs.
        rows: singular values (r1,) of W as (O, I K K), from the largest.
        columns: singular values (r2,) of W as (I, O K K), from the largest.
    """

    left: Tensor
    core: Tensor
    right: Tensor
    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """The form of all ranks, which is exact: the higher-order SVD along both channel modes."""
        exact = weight.detach().double()
        left, rows, _ = torch.linalg.svd(exact.flatten(1), full_matrices=False)
        right, columns, _ = torch.linalg.svd(exact.transpose(0, 1).flatten(1), full_matrices=False)
        core = torch.einsum("oikl,or,is->rskl", exact, left, right)
        return cls(left, core, right, rows, columns)

    @property
    def kernel(self) -> Tensor:
        """The kernel (O, I, K, K) that this form stands for."""
        return torch.einsum("rskl,or,is->oikl", self.core, self.left, self.right)

    def scaled(self, first: Tensor, second: Tensor) -> Self:
        """The same, the core times `first` (r1,) along outputs and `second` (r2,) along inputs."""
        return replace(self, core=self.core * first[:, None, None, None] * second[:, None, None])

    def truncated(self, first: int, second: int) -> Self:
        """The `first` leading components along the outputs, the `second` along the inputs."""
        return replace(
            self,
            left=self.left[:, :first],
            core=self.core[:first, :second],
            right=self.right[:, :second],
        )

    def layers(self, conv: nn.Conv2d) -> nn.Sequential:
        """Convolutions 1x1, KxK and 1x1 that do what `conv` does with this form as its kernel."""
        first, second = self.core.shape[:2]
        parts = nn.Sequential(
            skip_init(nn.Conv2d, conv.in_channels, second, 1, bias=False),
            skip_init(
                nn.Conv2d,
                second,
                first,
                conv.kernel_size,
                stride=conv.stride,
                padding=conv.padding,
                dilation=conv.dilation,
                bias=False,
                padding_mode=conv.padding_mode,
            ),
            skip_init(nn.Conv2d, first, conv.out_channels, 1, bias=conv.bias is not None),
        )
        kernels = self.right.T[:, :, None, None], self.core, self.left[:, :, None, None]
        with torch.no_grad():
            for part, kernel in zip(parts, kernels, strict=True):
                part.get_parameter("weight").copy_(kernel)
            if conv.bias is not None:
                parts[2].get_parameter("bias").copy_(conv.bias)
        return parts


def tucker_size(shape: torch.Size, first: int, second: int) -> int:
    """Weights of the three convolutions in place of a kernel of `shape` (O, I, K, L)."""
    outputs, inputs, *sides = shape
    return inputs * second + first * second * torch.Size(sides).numel() + first * outputs
