"""I-BAU: unlearns a universal perturbation along the implicit hypergradient of a minimax problem.

Paper     Zeng et al., "Adversarial Unlearning of Backdoors via Implicit Hypergradient", ICLR 2022
Differs   each round draws order and augmentation anew, where the reference unlearns from one stored
          draw; at least one image of a batch is perturbed, where its 1% of less than 100 is none;
          the series has all of its terms, where it ends early at changes below 1e-10
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses._base import Defense
from backdoor_lab.models.twice import TwiceDifferentiable
from backdoor_lab.seeds import derive, generator_for
from backdoor_lab.training import Recipe, constant
from backdoor_lab.validation import Count, Index, NonNegative, Positive, Rate, validated


def implicit_loss(
    outer: Callable[[Tensor], Tensor],
    inner: Callable[[Tensor], Tensor],
    delta: Tensor,
    terms: int,
    step: float,
) -> Tensor:
    """`outer(delta)`; its gradient to the weights w lets delta react to them, as it should.

    With Phi(delta, w) = delta - step * d inner / d delta, whose fixed point is the perturbation,
    v_0 = 0 and v_{k+1} = v_k dPhi/ddelta + d outer / d delta, the gradient is
    d outer / dw + v_K dPhi/dw: v_K is the Neumann series of (I - dPhi/ddelta)^-1.

    Args:
        outer: a loss of delta and, through its graph, of the weights.
        inner: what delta minimises.
        delta: the perturbation, of any shape; it is held fixed.
        terms: K; 0: delta does not react.
        step: of Phi.
    """
    delta = delta.detach().requires_grad_()
    loss = outer(delta)
    (pull,) = torch.autograd.grad(loss, delta, retain_graph=True)
    (slope,) = torch.autograd.grad(inner(delta), delta, create_graph=True)
    mapped = delta - step * slope
    series = pull if terms else torch.zeros_like(delta)
    for _ in range(terms - 1):
        (turned,) = torch.autograd.grad(mapped, delta, series, retain_graph=True)
        series = turned + pull
    reaction = (series * mapped).sum()
    return loss + reaction - reaction.detach()


class IBAU(Defense):
    """Rounds of a pass that finds a perturbation, and one that unlearns it; always in eval mode.

    The first descends -CE(x + delta, f(x)) + penalty ||delta||^2 from 0, a step a batch; the second
    descends the cross-entropy of batches of which some images carry delta, along `implicit_loss`,
    whose inner loss is that of the pass's first batch with its labels.

    Args:
        rounds: pairs of passes over the images.
        terms: of the Neumann series; 0: the perturbation is taken as given.
        inner_step: of the map whose fixed point the perturbation is taken for.
        ascent_lr: of the perturbation.
        penalty: weight of its squared norm.
        share: of a batch's images that carry it while unlearning.
        space: where it is added: to `pixels` in [0, 1], or `normalised`, in units of the data's
            standard deviation.
        lr: of Adam on the weights.
        amsgrad: Adam with the largest second moment so far.
        batch_size: images a step in both passes.
        augment: crop and flip the images.
    """

    precision = "32-true"  # gradients of gradients

    @validated
    def __init__(
        self,
        rounds: Count,
        terms: Index,
        inner_step: Positive,
        ascent_lr: Positive,
        penalty: NonNegative,
        share: Rate,
        space: Literal["normalised", "pixels"],
        lr: Positive,
        amsgrad: bool,
        batch_size: Count,
        augment: bool,
    ) -> None:
        super().__init__()
        self.terms, self.inner_step = terms, inner_step
        self.ascent_lr, self.penalty = ascent_lr, penalty
        self.share, self.space, self.augmented = share, space, augment
        self.recipe = Recipe(rounds, batch_size, lr, partial(Adam, amsgrad=amsgrad), constant)

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        data, augment = aux.labelled_data, self.crop_flip if self.augmented else None
        seed = derive(self.seed, "perturbation")
        self.draws = self.engine.batches(data, self.recipe.batch_size, seed=seed, augment=augment)
        self.norms: list[Tensor] = []
        self.fit(model, data, augment=augment)
        self.details = {"perturbation_norms": [round(norm.item(), 4) for norm in self.norms]}
        return model

    def on_train_start(self) -> None:
        self.model.eval()  # running statistics stay, dropout is off
        self.generator = generator_for(self.seed, "perturbed images", self.device)
        std = torch.tensor(self.spec.std, device=self.device).view(1, -1, 1, 1)
        self.scale = std if self.space == "normalised" else torch.ones_like(std)

    def on_train_epoch_start(self) -> None:
        self.delta = self.perturbation()
        self.norms.append(self.delta.norm())

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes), not by what `torch.compile` makes, which is differentiable once."""
        with TwiceDifferentiable():
            return self.model.forward(images)

    def perturbation(self) -> Tensor:
        """What a pass over the images finds, (1, C, H, W): it changes the model's own answers."""
        delta = torch.zeros(1, *self.spec.shape, device=self.device)
        for images, _ in islice(self.draws, self.steps_per_epoch):
            with torch.no_grad():
                answers = self(images).argmax(1)
            delta.requires_grad_()
            (slope,) = torch.autograd.grad(self.inner(images, answers, delta), delta)
            delta = (delta - self.ascent_lr * slope).detach()
        return delta

    def inner(self, images: Tensor, labels: Tensor, delta: Tensor) -> Tensor:
        """-CE of images (N, C, H, W) that all carry delta (1, C, H, W), and its penalty."""
        loss = F.cross_entropy(self(images + self.scale * delta), labels)
        return self.penalty * delta.square().sum() - loss

    def outer(self, images: Tensor, labels: Tensor, carriers: Tensor, delta: Tensor) -> Tensor:
        """CE of images (N, C, H, W) of which `carriers` (N, 1, 1, 1), 0 or 1, carry delta."""
        return F.cross_entropy(self(images + carriers * self.scale * delta), labels)

    def carriers(self, count: int) -> Tensor:
        """(count, 1, 1, 1), 1 for a random share of the images, one at least."""
        order = torch.randperm(count, generator=self.generator, device=self.device)
        return (order < max(1, int(self.share * count))).float().view(-1, 1, 1, 1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if batch_idx == 0:
            self.first = batch
        outer = partial(self.outer, *batch, self.carriers(len(batch[0])))
        inner = partial(self.inner, *self.first)
        return implicit_loss(outer, inner, self.delta, self.terms, self.inner_step)
