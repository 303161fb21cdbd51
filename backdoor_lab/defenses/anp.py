"""ANP: prunes channels that collapse under adversarial scaling of BatchNorm.

Paper     Wu & Wang, "Adversarial Neuron Pruning Purifies Backdoored Deep Models", NeurIPS 2021
Differs   batches without replacement, epoch by epoch, instead of with it; the threshold is chosen
          by accuracy on held-out auxiliary images, where BackdoorBench looks at test ACC and ASR;
          a channel that `compression` takes out takes its beta along
"""

from __future__ import annotations

from copy import deepcopy
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses._base import Defense, batch_norms
from backdoor_lab.defenses._compression import check_compression, compress
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import Batches, Manual, Recipe, constant, sgd
from backdoor_lab.validation import Count, Fraction, NonNegative, Positive, Ratio, validated

GRID = [step / 20 for step in range(19)]


class ANP(Defense, Manual):
    """Zeroes the gamma of channels whose mask is at most a threshold; beta stays, nothing is tuned.

    Its loop learns masks m in [0, 1] of the scales of a copy of the victim:
    min_m alpha CE(m) + (1 - alpha) max_{|delta|, |xi| <= eps} CE(m, delta, xi), where a channel's
    BatchNorm is gamma (m + delta) x + beta (1 + xi).

    Args:
        eps: radius of the perturbations of scale and shift; 0 leaves alpha CE(m) alone.
        steps: ascent steps per iteration, each of eps / steps.
        alpha: weight of the unperturbed loss.
        lr: of SGD on the masks.
        momentum: of SGD on the masks.
        iterations: steps of the search.
        batch_size: images a step.
        project: clip the perturbations to [-eps, eps] after each ascent step.
        threshold: masks up to it are pruned; None: the largest value of 0, .05, ... .9 that keeps
            the accuracy on held-out auxiliary images.
        acc_ratio: share of that accuracy which may be lost.
        compression: parameters of the victim, in those of the purified model, whose channels are
            taken out by their masks; None: they are zeroed only.
    """

    needs_batch_norm = True

    @validated
    def __init__(
        self,
        eps: NonNegative,
        steps: Count,
        alpha: Fraction,
        lr: Positive,
        momentum: Fraction,
        iterations: Count,
        batch_size: Count,
        project: bool,
        threshold: Fraction | None,
        acc_ratio: Fraction,
        compression: Ratio | None = None,
    ) -> None:
        super().__init__()
        self.eps, self.steps, self.alpha = eps, steps, alpha
        self.lr, self.momentum = lr, momentum
        self.iterations, self.batch_size = iterations, batch_size
        self.project, self.threshold, self.acc_ratio = project, threshold, acc_ratio
        self.compression = compression
        self.keeps_architecture = compression is None
        self.least = 2 if threshold is not None else 4  # half may be held out

    def check_model(self, model: nn.Module) -> None:
        super().check_model(model)
        check_compression(self, model, self.compression)

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        train, held = aux.labelled_data, None
        if self.threshold is None:
            train, held = self.hold_out(train)
        masks = self.search(model, train)
        threshold = self.threshold if held is None else self.choose(model, masks, held)
        values = torch.cat(list(masks.values())).cpu()
        histogram = torch.histc(values, 20, 0, 1).int().tolist()
        self.details = {"threshold": threshold, "pruned": 0, "masks": histogram}
        if threshold is not None:
            self.details["pruned"] = int((values <= threshold).sum())
            model = pruned(model, masks, threshold)
        if self.compression:
            limit = -1 if threshold is None else threshold
            gone = {name: mask <= limit for name, mask in masks.items()}
            self.details |= compress(model, self.spec.shape, masks, gone, self.compression)
        return model

    def search(self, model: nn.Module, data: ImageSet) -> dict[str, Tensor]:
        """The mask (C,) of each BatchNorm of `model`."""
        batches = self.engine.steps(len(Batches(data, self.batch_size)))
        epochs = ceil(self.iterations / max(1, batches))
        descent = sgd(self.momentum, weight_decay=0)
        self.recipe = Recipe(epochs, self.batch_size, self.lr, descent, constant)
        norms = batch_norms(model)
        self.masks = nn.ParameterList([torch.ones_like(norm.weight) for norm in norms.values()])
        self.fit(deepcopy(model).requires_grad_(False), data)
        return {name: mask.detach() for name, mask in zip(norms, self.masks, strict=True)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = self.recipe.optimizers(self.masks, 1)["optimizer"]
        return optimizer

    def on_train_start(self) -> None:
        self.generator = generator_for(self.seed, "anp", self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        masks = list(self.masks)
        worst = self.ascend(batch) if self.eps > 0 else None
        loss = self.alpha * self.loss(batch, masks)
        if worst is not None:
            loss = loss + (1 - self.alpha) * self.loss(batch, masks, worst)
        optimizer: Any = self.optimizers()
        self.descend(loss, optimizer)
        with torch.no_grad():
            for mask in self.masks:
                mask.clamp_(0, 1)
        self.trainer.should_stop = self.global_step >= self.iterations
        return loss

    def loss(
        self, batch: tuple[Tensor, Tensor], masks: list[Tensor], noise: list[Tensor] | None = None
    ) -> Tensor:
        """CE under `masks` [(C_l,)] and, if given, `noise` [(2, C_l)], rows delta and xi."""
        images, labels = batch
        norms = batch_norms(self.model)
        noise = noise or [torch.zeros(2, len(mask), device=mask.device) for mask in masks]
        scaled = {}
        for name, mask, (delta, xi) in zip(norms, masks, noise, strict=True):
            scaled[f"{name}.weight"] = norms[name].weight * (mask + delta)
            scaled[f"{name}.bias"] = norms[name].bias * (1 + xi)
        return F.cross_entropy(functional_call(self.model, scaled, images), labels)

    def ascend(self, batch: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Delta and xi of each layer (2, C_l): a random start, then signed gradient steps."""
        masks = [mask.detach() for mask in self.masks]
        noise = [
            torch.rand(2, len(mask), generator=self.generator, device=mask.device) * 2 - 1
            for mask in masks
        ]
        noise = [self.eps * part for part in noise]
        for _ in range(self.steps):
            leaves = [part.requires_grad_() for part in noise]
            gradients = torch.autograd.grad(self.loss(batch, masks, leaves), leaves)
            noise = [
                part.detach() + self.eps / self.steps * gradient.sign()
                for part, gradient in zip(leaves, gradients, strict=True)
            ]
            if self.project:
                noise = [part.clamp(-self.eps, self.eps) for part in noise]
        return noise

    def choose(self, model: nn.Module, masks: dict[str, Tensor], held: ImageSet) -> float | None:
        """The largest threshold that keeps the accuracy on `held`; None if there is none."""
        wanted = self.engine.accuracy(model, held) * (1 - self.acc_ratio)
        for threshold in reversed(GRID):
            if self.engine.accuracy(pruned(model, masks, threshold), held) >= wanted:
                return threshold
        return None


@torch.no_grad()
def pruned(model: nn.Module, masks: dict[str, Tensor], threshold: float) -> nn.Module:
    """A copy of `model` with gamma = 0 where a mask (C,) is at most `threshold`."""
    copy = deepcopy(model)
    for name, norm in batch_norms(copy).items():
        norm.weight.masked_fill_(masks[name].to(norm.weight.device) <= threshold, 0)
    return copy
