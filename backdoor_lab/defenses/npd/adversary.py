"""Images that a model is led to take for a given wrong class: stand-ins for triggered ones."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import TypedDict

from backdoor_lab.validation import Count, Fraction, Positive


class Adversary(TypedDict):
    """How a perturbation of images in [0, 1] is sought.

    Attributes:
        norm: in which it is bounded, per image.
        radius: the bound.
        start: `zero`, or `edge`: `radius` at every pixel.
        steps: at most so many.
        step: size of one, times the sign of the gradient or the gradient itself.
        sign: which of the two.
        stop_rate: share of a batch that has reached its class, beyond which no step is taken.
    """

    norm: Literal["l2", "linf"]
    radius: Positive
    start: Literal["zero", "edge"]
    steps: Count
    step: Positive
    sign: bool
    stop_rate: Fraction


def misled(model: nn.Module, images: Tensor, target: Tensor, adversary: Adversary) -> Tensor:
    """Images (N, C, H, W) in [0, 1] that `model` takes more readily for `target` (N,).

    d <- project(d - step * sign(grad mean CE(model(clip(x + d)), target))), until enough are there.
    """
    edge = adversary["start"] == "edge"
    noise = torch.full_like(images, adversary["radius"] if edge else 0.0)
    for number in range(adversary["steps"]):
        leaf = noise.requires_grad_()
        logits = model((images + leaf).clamp(0, 1))
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, target), leaf)
        direction = gradient.sign() if adversary["sign"] else gradient
        noise = leaf.detach()
        moved = projected(noise - adversary["step"] * direction, adversary)
        if number:  # decided on the device: to look would hold up every step
            enough = (logits.argmax(1) == target).float().mean() > adversary["stop_rate"]
            moved = torch.where(enough, noise, moved)
        noise = moved
    return (images + noise).clamp(0, 1)


def projected(noise: Tensor, adversary: Adversary) -> Tensor:
    """`noise` (N, C, H, W), each image's within the radius: cut off (linf) or scaled (l2)."""
    radius = adversary["radius"]
    if adversary["norm"] == "linf":
        return noise.clamp(-radius, radius)
    norms = torch.linalg.vector_norm(noise, dim=(1, 2, 3), keepdim=True)
    return noise * (radius / norms).clamp(max=1)
