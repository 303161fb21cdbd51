"""What BatchNorm layers remember, and what enters them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
            var, mean = torch.var_mean(inputs[0].float(), dim=(0, 2, 3), correction=0)
            seen[name] = (mean, var.detach() if detach_var else var)

    with watched(model, look, (nn.BatchNorm2d,), before=True):
        yield seen
