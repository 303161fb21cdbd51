"""FT-SAM: fine-tunes at the worst point near the weights, which shrinks large, backdoored ones.

Paper     Zhu et al., "Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware
          Minimization", ICCV 2023
Differs   cross-entropy where the code has the KL divergence, a constant apart; its GSAM term, which
          no configuration of it switches on, is not built; a cosine over all epochs by default: the
          code steps its cosine of 100 epochs once a batch, which `schedule=waves` repeats; bf16
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from backdoor_lab.defenses._base import Defense
from backdoor_lab.training import SAM, Recipe, constant, cosine, waves
from backdoor_lab.validation import Count, Fraction, Momentum, NonNegative, Positive, validated

SCHEDULES = {"cosine": cosine, "waves": waves, "constant": constant}


def smoothed(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Targets (N, classes) of labels (N,): 1 - s on the label, s / (classes - 1) on each other."""
    others = torch.full((len(labels), classes), smoothing / (classes - 1), device=labels.device)
    return others.scatter_(1, labels[:, None], 1 - smoothing)


class FTSAM(Defense):
    """Fine-tuning by SAM: the gradient is taken at w + e and descended from w.

    Adaptive, e = rho w^2 g / || |w| g ||: the ball is stretched along large weights.

    Args:
        epochs: passes over the images, each batch twice.
        lr: learning rate, at its start.
        momentum: of SGD.
        weight_decay: on all parameters.
        batch_size: images a step.
        rho: radius of the ball, one for all parameters; 0 leaves SGD.
        adaptive: stretch the ball; else e = rho g / ||g||.
        label_smoothing: share of the target that goes to the other labels.
        schedule: of the rate: `cosine` over all epochs; `waves`, down and up in 100 steps each;
            `constant`.
    """

    @validated
    def __init__(
        self,
        epochs: Count,
        lr: Positive,
        momentum: Momentum,
        weight_decay: NonNegative,
        batch_size: Count,
        rho: NonNegative,
        adaptive: bool,
        label_smoothing: Fraction,
        schedule: Literal["cosine", "waves", "constant"],
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        sam = partial(SAM, rho=rho, adaptive=adaptive, momentum=momentum, weight_decay=weight_decay)
        self.recipe = Recipe(epochs, batch_size, lr, sam, SCHEDULES[schedule])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """A pass of SAM's two; BatchNorm's running statistics take part in the first alone."""
        images, labels = batch
        logits = self.model(images)
        return F.cross_entropy(logits, smoothed(labels, logits.shape[1], self.label_smoothing))
