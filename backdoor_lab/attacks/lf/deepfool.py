"""DeepFool towards one class.

Paper     Moosavi-Dezfooli et al., DeepFool: A Simple and Accurate Method to Fool Deep Neural
          Networks, CVPR 2016, arXiv:1511.04599
Differs   one target class; each step leaves the class that is on top now
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

OVERSHOOT = 0.02  # beyond the border, as in the paper


def deepfool(model: nn.Module, starts: Tensor, target: int, steps: int) -> Tensor:
    """What takes `starts` (N, C, H, W) to class `target`: moves of their shape, 0 in vain.

    Each step goes where the linearised model takes the target for as likely as the top class:
    r = |f_t - f_k| w / |w|^2, with w the gradient of f_t - f_k.
    """
    moves = torch.zeros_like(starts)
    active = torch.arange(len(starts), device=starts.device)
    for _ in range(steps):
        if len(active) == 0:
            break
        images = (starts + (1 + OVERSHOOT) * moves)[active].requires_grad_()
        logits = model(images)
        best, top = logits.max(1)
        gap = logits[:, target] - best
        (slope,) = torch.autograd.grad(gap.sum(), images)
        away = top != target
        size = slope.square().sum((1, 2, 3))
        pace = (gap.detach().abs() / size)[:, None, None, None]
        found = (pace * slope).nan_to_num(0, 0, 0)  # those that arrived have no slope
        moves[active] += found
        active = active[away]
    moves[active] = 0
    return (1 + OVERSHOOT) * moves


@torch.no_grad()
def classes(model: nn.Module, images: Tensor) -> Tensor:
    """Predicted classes (N,) of `images` (N, C, H, W)."""
    return torch.cat([model(part).argmax(1) for part in images.split(250)])
