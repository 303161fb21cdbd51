"""SAU: unlearns adversarial examples that fool the victim and the model towards the same class.

Paper     Wei et al., "Shared Adversarial Unlearning: Backdoor Mitigation by Unlearning Shared
          Adversarial Examples", NeurIPS 2023
Differs   no early end of the ascent once all images are shared, where its gradient is nought; one
          outer step an ascent, and the L_inf ball alone, as in all settings of the authors; bf16
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses._base import Defense
from backdoor_lab.models import frozen_copy
from backdoor_lab.training import Recipe, constant
from backdoor_lab.validation import Count, NonNegative, Positive, validated

Pair = tuple[Tensor, Tensor]
"""Of the model and of the victim, which stays as it was."""


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence (N,) of logits (N, classes), of probabilities of 1e-8 at least."""
    p, q = (logits.float().softmax(1).clamp(min=1e-8) for logits in (first, second))
    mixed = (p + q) / 2
    return ((p * (p / mixed).log() + q * (q / mixed).log()) / 2).sum(1)


def sharing_loss(
    logits: Pair, answers: Pair, labels: Tensor, adv_weight: float, share_weight: float
) -> Tensor:
    """What a perturbation descends so that both networks take its image for the same wrong class.

    A network is fooled by what it answers otherwise than the clean image, and then counts no more
    in L_adv, minus the mean cross-entropy; a pair fooled alike no more in L_share, its divergence.

    Args:
        logits: (N, classes) of each network on perturbed images.
        answers: (N,) of each on the clean ones.
        labels: (N,).
        adv_weight: of L_adv.
        share_weight: of L_share.
    """
    found = [each.argmax(1) for each in logits]
    fooled = [now != before for now, before in zip(found, answers, strict=True)]
    shared = fooled[0] & fooled[1] & (found[0] == found[1])
    losses = [F.cross_entropy(each.float(), labels, reduction="none") for each in logits]
    wrong = sum((loss * ~off).sum() for loss, off in zip(losses, fooled, strict=True)) / 2
    apart = (divergence(*logits) * ~shared).sum()
    return (share_weight * apart - adv_weight * wrong) / len(labels)


def unlearning_loss(logits: Tensor, classes: Tensor, fooled: Tensor) -> Tensor:
    """-log(1 - p_k) of the class k (N,) that the victim takes an image for, where it is `fooled`.

    Summed over these and divided by all N. 1 - p_k is taken as the mean, in logarithms, of the sum
    of the others and of one less p_k; clamps end the gradient where p_k < 0.001.
    """
    probabilities = logits.float().softmax(1)
    taken = F.one_hot(classes, logits.shape[1]).bool()
    others = probabilities.masked_fill(taken, 0).sum(1).clamp(max=0.999)
    own = probabilities.gather(1, classes[:, None]).squeeze(1).clamp(min=0.001)
    losses = -((1e-6 + others).log() + (1 + 1e-6 - own).log()) / 2
    return (losses * fooled).sum() / len(logits)


class SAU(Defense):
    """Tunes the model away from the victim's mistakes on images that are perturbed for both.

    Args:
        eps: radius of the L_inf ball, of pixels in [0, 1]; every perturbation starts at +eps.
        step: of each signed gradient step; None: eps.
        steps: gradient steps of a perturbation.
        adv_weight: beta_1, of fooling each network.
        share_weight: beta_2, of the divergence of the two.
        clean_weight: lambda_1, of the cross-entropy of clean images.
        robust_weight: lambda_2, of the cross-entropy of perturbed images.
        unlearn_weight: lambda_3, of the mistakes that the victim makes on them.
        clamp: keep perturbed images in [0, 1].
        train_mode: tune under batch statistics of clean and perturbed images together, instead of
            the running ones, which stay as they are.
        rounds: passes over the images.
        lr: of Adam (amsgrad), constant.
        batch_size: images a step.
    """

    @validated
    def __init__(
        self,
        eps: Positive,
        step: Positive | None,
        steps: Count,
        adv_weight: NonNegative,
        share_weight: NonNegative,
        clean_weight: NonNegative,
        robust_weight: NonNegative,
        unlearn_weight: NonNegative,
        clamp: bool,
        train_mode: bool,
        rounds: Count,
        lr: Positive,
        batch_size: Count,
    ) -> None:
        super().__init__()
        self.eps, self.step, self.steps = eps, step or eps, steps
        self.adv_weight, self.share_weight = adv_weight, share_weight
        self.clean_weight, self.robust_weight = clean_weight, robust_weight
        self.unlearn_weight = unlearn_weight
        self.clamp, self.train_mode = clamp, train_mode
        self.recipe = Recipe(rounds, batch_size, lr, partial(Adam, amsgrad=True), constant)

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        self.victim = frozen_copy(model)
        self.fit(model, aux.labelled_data, augment=None)
        del self.victim
        self.details = {"fooled": round((self.fooled / self.seen).item(), 4)}
        return model

    def on_train_epoch_start(self) -> None:
        self.model.eval()
        self.fooled, self.seen = torch.zeros((), device=self.device), 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        with torch.no_grad():
            answers = self.model(images).argmax(1), self.victim(images).argmax(1)
        perturbed = images + self.perturbation(images, labels, answers)
        with torch.no_grad():
            mistakes = self.victim(perturbed).argmax(1)
        fooled = (mistakes != labels) & (mistakes != answers[1])
        self.fooled, self.seen = self.fooled + fooled.sum(), self.seen + len(images)
        self.model.train(self.train_mode)
        clean, adversarial = self.model(torch.cat([images, perturbed])).chunk(2)
        self.model.eval()
        return (
            self.clean_weight * F.cross_entropy(clean, labels)
            + self.robust_weight * F.cross_entropy(adversarial, labels)
            + self.unlearn_weight * unlearning_loss(adversarial, mistakes, fooled)
        )

    def perturbation(self, images: Tensor, labels: Tensor, answers: Pair) -> Tensor:
        """A perturbation (N, C, H, W) of each image, within eps, of signed gradient steps."""
        delta = self.within(torch.full_like(images, self.eps), images)
        for _ in range(self.steps):
            delta.requires_grad_()
            logits = self.model(images + delta), self.victim(images + delta)
            loss = sharing_loss(logits, answers, labels, self.adv_weight, self.share_weight)
            (slope,) = torch.autograd.grad(loss, delta)
            delta = self.within((delta - self.step * slope.sign()).detach(), images)
        return delta

    def within(self, delta: Tensor, images: Tensor) -> Tensor:
        """`delta` cut to the ball and, with `clamp`, so that images stay in [0, 1]."""
        delta = delta.clamp(-self.eps, self.eps)
        return (images + delta).clamp(0, 1) - images if self.clamp else delta
