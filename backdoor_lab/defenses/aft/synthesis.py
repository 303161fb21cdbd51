"""Images from nothing but a model: what its BatchNorm layers remember, and its classes.

Paper     Eq. 9 of Clean & Compact (see `aft.py`), after ZeroQ (Cai et al., CVPR 2020)
Differs   ZeroQ compares the statistics of each image; Eq. 9 read literally, those of a batch; the
          start (normal noise) and the bound to [0, 1] are ours
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backdoor_lab.defenses._base import batch_norms
from backdoor_lab.defenses._statistics import Statistics, input_statistics, running_statistics


def mismatch(batch: Statistics, stored: Statistics, eps: dict[str, float]) -> Tensor:
    """Sum over layers of ||mu - mu*||^2 + ||sigma - sigma*||^2, where sigma is sqrt(var + eps)."""
    parts = []
    for name, (mean, var) in batch.items():
        stored_mean, stored_var = stored[name]
        parts.append((mean - stored_mean).square().sum())
        deviation, wanted = ((one + eps[name]).sqrt() for one in (var, stored_var))
        parts.append((deviation - wanted).square().sum())
    return torch.stack(parts).sum()


@torch.enable_grad()
def synthesise(
    model: nn.Module,
    labels: Tensor,
    noise: Tensor,
    scale: tuple[Tensor, Tensor],
    iterations: int,
    lr: float,
) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) in [0, 1] that could be what frozen `model` has learnt `labels` from.

    min over x of the mismatch of the batch plus CE(model(x), labels), by Adam on pixels normalised
    as (x - mean) / std.

    Args:
        model: in eval mode.
        labels: (N,).
        noise: normalised pixels (N, C, H, W) to start from.
        scale: mean and std (1, C, 1, 1) of pixels in [0, 1].
        iterations: of Adam.
        lr: of Adam.

    Returns:
        The images, and mismatch and cross-entropy (2,) before the last step.
    """
    mean, std = scale
    low, high = -mean / std, (1 - mean) / std
    pixels = noise.clamp(low, high).requires_grad_()
    adam = torch.optim.Adam([pixels], lr=lr)
    stored = running_statistics(model)
    eps = {name: norm.eps for name, norm in batch_norms(model).items()}
    terms = torch.zeros(2)
    with input_statistics(model, detach_var=False) as batch:
        for _ in range(iterations):
            wrong = F.cross_entropy(model(mean + std * pixels).float(), labels)
            terms = torch.stack([mismatch(batch, stored, eps), wrong])
            pixels.grad = torch.autograd.grad(terms.sum(), pixels)[0]
            adam.step()
            with torch.no_grad():
                pixels.clamp_(low, high)
    return (mean + std * pixels).detach(), terms.detach()
