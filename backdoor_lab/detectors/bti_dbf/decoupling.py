"""Benign features, and a generator of images that differ in all the others."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import TypedDict

from backdoor_lab.detectors._squashing import squashed
from backdoor_lab.models.unet import UNet
from backdoor_lab.seeds import generator_for, seeded
from backdoor_lab.validation import Count, NonNegative, Positive

Features = Callable[[Tensor], Tensor]


class Reversal(TypedDict):
    """How the generator is trained.

    Attributes:
        width: channels of the U-Net's finest level.
        steps: of Adam.
        batch_size: images a step.
        lr: of Adam.
        image_bound: mean squared change of the images, in normalised units, that is allowed.
        feature_bound: mean squared change of the benign features that is allowed.
        benign: weight of that change where both are kept.
    """

    width: Count
    steps: Count
    batch_size: Count
    lr: Positive
    image_bound: Positive
    feature_bound: Positive
    benign: NonNegative


def benign_mask(
    head: nn.Module, features: Tensor, labels: Tensor, steps: int, lr: float, seed: int
) -> Tensor:
    """Which features (D,) serve the true classes, in (0, 1).

    min over m of CE(h(m * phi), y) - CE(h((1 - m) * phi), y), by Adam on all images at once.

    Args:
        head: features (N, D) to logits.
        features: phi, of clean images (N, D).
        labels: (N,).
        steps: of Adam.
        lr: of Adam.
        seed: of the start, m = tanh(a) / 2 + 1/2 with a ~ N(0, 1).
    """
    draw = generator_for(seed, "mask")
    raw = torch.randn(features.shape[1], generator=draw).to(features.device).requires_grad_()
    adam = torch.optim.Adam([raw], lr=lr)
    for _ in range(steps):
        mask = squashed(raw)
        kept, left = (F.cross_entropy(head(one * features), labels) for one in (mask, 1 - mask))
        (raw.grad,) = torch.autograd.grad(kept - left, raw)
        adam.step()
    return squashed(raw.detach())


def reversal(
    features: Features, images: Tensor, mask: Tensor, std: Tensor, how: Reversal, seed: int
) -> UNet:
    """A generator G whose images keep the benign features and change the others most.

    With n = MSE(x, Gx) in normalised units, b and d = MSE of the benign and of the other features:
    descends n where n or b is out of bounds, else -d + benign * b.

    Args:
        features: images (N, C, H, W) in [0, 1] to phi (N, D).
        images: clean ones.
        mask: of the benign features (D,).
        std: of the pixels, (1, C, 1, 1).
        how: of the training.
        seed: of the generator's weights and of the order.
    """
    with seeded(seed):
        generator = UNet(images.shape[1], how["width"]).to(images.device)
    adam = torch.optim.Adam(generator.parameters(), lr=how["lr"])
    draw = generator_for(seed, "order")
    for _ in range(how["steps"]):
        chosen = torch.randint(len(images), (how["batch_size"],), generator=draw)
        batch = images[chosen.to(images.device)]
        changed = generator(batch)
        adam.zero_grad()
        decoupled(features, batch, changed, mask, std, how).backward()
        adam.step()
    return generator.eval().requires_grad_(False)


def decoupled(
    features: Features, images: Tensor, changed: Tensor, mask: Tensor, std: Tensor, how: Reversal
) -> Tensor:
    """The generator's loss for a batch (N, C, H, W) and what it made of it."""
    with torch.no_grad():
        before = features(images)
    difference = features(changed) - before
    size = ((changed - images) / std).square().mean()
    benign = (mask * difference).square().mean()
    other = ((1 - mask) * difference).square().mean()
    outside = (size > how["image_bound"]) | (benign > how["feature_bound"])
    return torch.where(outside, size, how["benign"] * benign - other)
