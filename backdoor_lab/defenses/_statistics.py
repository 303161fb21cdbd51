"""What BatchNorm layers remember, and what enters them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from backdoor_lab.defenses._base import batch_norms
from backdoor_lab.models import watched

Statistics = dict[str, tuple[Tensor, Tensor]]


def running_statistics(model: nn.Module) -> Statistics:
    """Running mean and variance (C,) of each BatchNorm."""
    return {
        name: (model.get_buffer(f"{name}.running_mean"), model.get_buffer(f"{name}.running_var"))
        for name in batch_norms(model)
    }


@contextmanager
def input_statistics(model: nn.Module, detach_var: bool) -> Iterator[Statistics]:
    """Mean and biased variance (C,), fp32, of what entered each BatchNorm in the last forward."""
    seen: Statistics = {}

    def look(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: None) -> None:
        if module.affine:
            mean, var = Moments.apply(inputs[0].float())
            seen[name] = (mean, var.detach() if detach_var else var)

    with watched(model, look, (nn.BatchNorm2d,), before=True):
        yield seen


class Moments(torch.autograd.Function):
    """Mean and biased variance (C,) of features (N, C, H, W).

    As `torch.var_mean`, which on a CPU takes longer than the convolution before it.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> tuple[Tensor, Tensor]:
        mean = features.mean((0, 2, 3))
        var = (features - mean.view(1, -1, 1, 1)).square_().mean((0, 2, 3))
        ctx.save_for_backward(features, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, mean_slope: Tensor, var_slope: Tensor) -> Tensor:
        features, mean = ctx.saved_tensors
        share = mean.numel() / features.numel()
        slope = 2 * share * var_slope
        offset = share * mean_slope - slope * mean
        return torch.addcmul(offset.view(1, -1, 1, 1), features, slope.view(1, -1, 1, 1))
