"""ANP: prunes channels that collapse under adversarial scaling of BatchNorm.

Paper     Wu & Wang, "Adversarial Neuron Pruning Purifies Backdoored Deep Models", NeurIPS 2021
Differs   batches without replacement, epoch by epoch, instead of with it; the threshold is chosen
          by accuracy on held-out auxiliary images, where BackdoorBench looks at test ACC and ASR
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor, nn

from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses._scale_masks import ScaleMasks
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import Batches, Recipe, constant, sgd
from backdoor_lab.validation import Count, Fraction, Momentum, NonNegative, Positive, validated


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
    ) -> None:
        super().__init__(threshold)
        self.eps, self.steps, self.alpha = eps, steps, alpha
        self.lr, self.momentum = lr, momentum
        self.iterations, self.batch_size = iterations, batch_size
        self.project, self.acc_ratio = project, acc_ratio

    def enough(self, accuracy: float) -> float:
        return accuracy * (1 - self.acc_ratio)

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
