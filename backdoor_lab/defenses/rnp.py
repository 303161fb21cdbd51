"""RNP: unlearns the clean task, recovers it by channel masks, prunes what the recovery gave up.

Paper     Li et al., "Reconstructive Neuron Pruning for Backdoor Defense", ICML 2023
Differs   the threshold is chosen by accuracy on held-out auxiliary images, where the code sweeps it
          against test ACC and ASR; no clipping of gradients, which comes before the backward pass
          there and does nothing; a model that does not unlearn in time is recovered as it is; bf16
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses._scale_masks import ScaleMasks
from backdoor_lab.training import Recipe, Tuning, constant, multi_step, sgd
from backdoor_lab.validation import Count, Fraction, Momentum, NonNegative, Positive, validated


class Unlearning(Tuning):
    """Climbs the cross-entropy until an epoch's accuracy, as met in training, is low enough.

    Attributes:
        enough: the accuracy.
        accuracy: of the last epoch.
    """

    enough: float
    accuracy: float

    def on_train_epoch_start(self) -> None:
        self.right, self.count = torch.zeros((), device=self.device), 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.model(images)
        self.right += (logits.detach().argmax(1) == labels).sum()
        self.count += len(labels)
        return -F.cross_entropy(logits, labels)

    def on_train_epoch_end(self) -> None:
        self.accuracy = round(self.right.item() / self.count, 6)
        self.trainer.should_stop = self.accuracy <= self.enough


class RNP(ScaleMasks):
    """Zeroes the gamma of channels whose mask is at most a threshold; beta stays, nothing is tuned.

    Clean images are unlearnt by a copy of the victim, max_w CE(w), and recovered by masks m of its
    scales, min_m alpha CE(m): where a mask falls, the channel stands in the way of clean images.

    Args:
        unlearn_epochs: passes over the images at most.
        unlearn_lr: of SGD on all parameters, a tenth after 10 epochs and again after 20.
        unlearn_until: the accuracy of an epoch that ends the unlearning.
        momentum: of SGD in both phases.
        weight_decay: of the unlearning.
        recover_epochs: passes over the images.
        recover_lr: of SGD on the masks.
        alpha: weight of the recovery's loss.
        batch_size: images a step in both phases.
        threshold: masks up to it are pruned; None: the largest value of 0, .05, ... .9 that keeps
            the accuracy on held-out auxiliary images.
        acc_drop: how much of that accuracy may be lost, in [0, 1].
    """

    @validated
    def __init__(
        self,
        unlearn_epochs: Count,
        unlearn_lr: Positive,
        unlearn_until: Fraction,
        momentum: Momentum,
        weight_decay: NonNegative,
        recover_epochs: Count,
        recover_lr: Positive,
        alpha: Positive,
        batch_size: Count,
        threshold: Fraction | None,
        acc_drop: Fraction,
    ) -> None:
        super().__init__(threshold)
        self.unlearn_until, self.alpha, self.acc_drop = unlearn_until, alpha, acc_drop
        fall = partial(multi_step, milestones=[10, 20])
        climb = sgd(momentum, weight_decay)
        self.unlearning = Recipe(unlearn_epochs, batch_size, unlearn_lr, climb, fall)
        plain = sgd(momentum, weight_decay=0)
        self.recipe = Recipe(recover_epochs, batch_size, recover_lr, plain, constant)

    def enough(self, accuracy: float) -> float:
        return accuracy - self.acc_drop

    def search(self, model: nn.Module, data: ImageSet) -> dict[str, Tensor]:
        return self.learn(self.unlearn(model, data), data)

    def unlearn(self, model: nn.Module, data: ImageSet) -> nn.Module:
        """A copy of `model` that knows `data` no more."""
        module = Unlearning(deepcopy(model), self.unlearning, self.crop_flip, self.seed)
        module.enough = self.unlearn_until
        self.engine.fit(module, data, "unlearn")
        self.details = {"unlearnt": module.accuracy <= self.unlearn_until}
        self.details["unlearnt_accuracy"] = module.accuracy
        return module.model

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.step(self.alpha * self.loss(batch, list(self.masks)))
