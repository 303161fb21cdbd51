"""ANP: prunes channels that collapse under adversarial scaling of BatchNorm.

Paper     Wu & Wang, "Adversarial Neuron Pruning Purifies Backdoored Deep Models", NeurIPS 2021
Differs   batches without replacement, epoch by epoch, instead of with it; the threshold is chosen
          by accuracy on held-out auxiliary images, where BackdoorBench looks at test ACC and ASR;
          a channel that `compression` takes out takes its beta along; bf16
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor, nn

from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses._compression import check_compression, compress
from backdoor_lab.defenses._scale_masks import ScaleMasks
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import Batches, Recipe, constant, sgd
from backdoor_lab.validation import (
    Count,
    Fraction,
    Momentum,
    NonNegative,
    Positive,
    Ratio,
    validated,
)


class ANP(ScaleMasks):
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

    @validated
    def __init__(
        self,
        eps: NonNegative,
        steps: Count,
        alpha: Fraction,
        lr: Positive,
        momentum: Momentum,
        iterations: Count,
        batch_size: Count,
        project: bool,
        threshold: Fraction | None,
        acc_ratio: Fraction,
        compression: Ratio | None = None,
    ) -> None:
        super().__init__(threshold)
        self.eps, self.steps, self.alpha = eps, steps, alpha
        self.lr, self.momentum = lr, momentum
        self.iterations, self.batch_size = iterations, batch_size
        self.project, self.acc_ratio = project, acc_ratio
        self.compression = compression
        self.keeps_architecture = compression is None

    def check_model(self, model: nn.Module) -> None:
        super().check_model(model)
        check_compression(self, model, self.compression)

    def enough(self, accuracy: float) -> float:
        return accuracy * (1 - self.acc_ratio)

    def without(
        self, model: nn.Module, masks: dict[str, Tensor], threshold: float | None
    ) -> nn.Module:
        model = super().without(model, masks, threshold)
        if self.compression is not None:
            limit = -1 if threshold is None else threshold
            gone = {name: mask <= limit for name, mask in masks.items()}
            self.details |= compress(model, self.spec.shape, masks, gone, self.compression)
        return model

    def search(self, model: nn.Module, data: ImageSet) -> dict[str, Tensor]:
        batches = self.engine.steps(len(Batches(data, self.batch_size)))
        epochs = ceil(self.iterations / max(1, batches))
        descent = sgd(self.momentum, weight_decay=0)
        self.recipe = Recipe(epochs, self.batch_size, self.lr, descent, constant)
        return self.learn(model, data)

    def on_train_start(self) -> None:
        self.generator = generator_for(self.seed, "anp", self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        masks = list(self.masks)
        worst = self.ascend(batch) if self.eps > 0 else None
        loss = self.alpha * self.loss(batch, masks)
        if worst is not None:
            loss = loss + (1 - self.alpha) * self.loss(batch, masks, worst)
        self.step(loss)
        self.trainer.should_stop = self.global_step >= self.iterations
        return loss

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
