"""Adversarial images by projected gradients, and the training that withstands them.

Paper     Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018,
          arXiv:1706.06083
Differs   images are sought with batch normalisation in eval mode, so that their steps
          do not enter the running statistics; the cube grows to its size over the first half of
          the epochs, without which small networks stay at chance
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backdoor_lab.datasets import ImageSet
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import Augmentation, Engine, Recipe, Tuning, whole


class Ascent(NamedTuple):
    """`steps` signed gradient steps of size `step` within `eps` of the image; in [0, 1]."""

    eps: float
    step: float
    steps: int

    def scaled(self, factor: float) -> Ascent:
        """The same in a cube `factor` times as large."""
        return Ascent(self.eps * factor, self.step * factor, self.steps)


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    ascent: Ascent,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Images (N, C, H, W) in [0, 1] that `model` takes less readily for `labels` (N,).

    x <- clip(x + step * sign(grad CE(model(x), y))) to the cube of half side eps around the image
    and to [0, 1]; from the image itself, or with a `generator` from a uniform point of the cube.
    """
    low, high = (images - ascent.eps).clamp(min=0), (images + ascent.eps).clamp(max=1)
    found = images
    if generator is not None:
        uniform = torch.rand(images.shape, generator=generator, device=images.device)
        found = (images + ascent.eps * (2 * uniform - 1)).clamp(0, 1)
    for _ in range(ascent.steps):
        with torch.enable_grad():
            leaf = found.detach().requires_grad_()
            loss = F.cross_entropy(model(leaf), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, leaf)
        found = torch.clamp(found + ascent.step * gradient.sign(), low, high)
    return found.detach()


class AdversarialTraining(Tuning):
    """min E max CE(model(x + d), y) over the cube |d| <= eps, the maximum by `pgd`."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        augment: Augmentation | None,
        seed: int,
        ascent: Ascent,
    ) -> None:
        super().__init__(model, recipe, augment, seed)
        self.ascent = ascent

    def on_train_epoch_start(self) -> None:
        self.generator = generator_for(self.seed, f"pgd {self.current_epoch}", self.device)
        grown = min(1.0, 2 * (self.current_epoch + 1) / self.recipe.epochs)
        self.now = self.ascent.scaled(grown)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        self.model.eval()
        hard = pgd(self.model, images, labels, self.now, self.generator)
        self.model.train()
        return F.cross_entropy(self.model(hard), labels)


def robustness(
    model: nn.Module, held: ImageSet, ascent: Ascent, engine: Engine
) -> dict[str, float]:
    """Accuracies of `model` on a set and on what `pgd` makes of it."""
    right = 0
    for images, labels in whole(engine.batches(held, 128, shuffle=False)):
        hard = pgd(model, images, labels, ascent)
        with engine.evaluating(model):
            right += int((model(hard).argmax(1) == labels).sum())
    return {"clean_accuracy": engine.accuracy(model, held), "pgd_accuracy": right / len(held)}
