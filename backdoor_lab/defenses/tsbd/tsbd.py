"""TSBD: zeroes what unlearning the clean task changes most, then tunes with quiet gradients.

Paper     Lin et al., "Unveiling and Mitigating Backdoor Vulnerabilities based on Unlearning Weight
          Changes and Backdoor Activeness", NeurIPS 2024
Differs   from the authors' code: one ratio of neurons, where the code tries eleven and shows the
          test results of each; unlearning stops at chance on images without augmentation, which is
          the share of the most frequent class where that exceeds the code's 0.1: a model that calls
          all of few images the same would go on until it diverges; batches in random order; scores
          in full precision; shortcuts are told by structure, not by name; running statistics learn
          from the first pass of a step, not from a third one after it; exactly `epochs` epochs, not
          one more; a gradient of zero is no division by zero; bf16
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses._base import Defense
from backdoor_lab.defenses.tsbd.changes import filters, most_changed, most_changed_within
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import SAM, Engine, Recipe, Tuning, constant, sgd
from backdoor_lab.validation import Count, Fraction, Momentum, NonNegative, Positive, validated


class Unlearning(Tuning):
    """Ascends the cross-entropy until the model answers `data` no better than `chance`."""

    engine: Engine
    data: ImageSet
    chance: float
    accuracy = 1.0
    epochs = 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return -super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.epochs += 1
        self.accuracy = self.engine.accuracy(self.model, self.data)
        self.trainer.should_stop = self.accuracy <= self.chance


class TSBD(Defense):
    """Unlearns in a copy, zeroes in the victim, repairs it with all of its weights free.

    Args:
        neurons: share of the filters of all convolutions that are chosen, by their summed change;
            0: none, the tuning alone.
        weights: share of the weights in them that become zero, by their own change.
        unlearn_lr: of SGD up the cross-entropy.
        unlearn_epochs: passes over the images at most.
        chance: accuracy on the images at which it ends; None: the larger of 0.1 and the share of
            the most frequent class.
        r: how far each tensor climbs for the second gradient of a tuning step.
        alpha: weight of that gradient; 0: plain fine-tuning.
        epochs: passes over the images while tuning.
        lr: learning rate while tuning, constant.
        momentum: of SGD in both phases.
        weight_decay: while tuning.
        batch_size: images a step in both phases.
    """

    @validated
    def __init__(
        self,
        neurons: Fraction,
        weights: Fraction,
        unlearn_lr: Positive,
        unlearn_epochs: Count,
        chance: Fraction | None,
        r: NonNegative,
        alpha: Fraction,
        epochs: Count,
        lr: Positive,
        momentum: Momentum,
        weight_decay: NonNegative,
        batch_size: Count,
    ) -> None:
        super().__init__()
        self.neurons, self.weights, self.chance = neurons, weights, chance
        ascent = sgd(momentum, weight_decay=0)
        self.unlearning = Recipe(unlearn_epochs, batch_size, unlearn_lr, ascent, constant)
        descent = partial(
            SAM, rho=r, alpha=alpha, apart=True, momentum=momentum, weight_decay=weight_decay
        )
        self.recipe = Recipe(epochs, batch_size, lr, descent, constant)

    def check_model(self, model: nn.Module) -> None:
        super().check_model(model)
        total = sum(filters(model, self.spec.shape).values())
        if self.neurons and int(self.neurons * total) == 0:
            raise ConfigError(
                f"{self.key}.neurons={self.neurons} means none of {total} filters of this model; "
                f"allowed: 0, or a share that means one, at most 1"
            )

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        if self.neurons:
            self.zero(model.to(self.engine.device), aux.labelled_data)
        return super().purify(model, aux)

    def zero(self, model: nn.Module, data: ImageSet) -> None:
        """Zero in `model`, in place, what unlearning changes most in a copy of it."""
        rivals = filters(model, self.spec.shape)
        unlearnt = self.unlearn(deepcopy(model), data)
        with torch.no_grad():
            changes = {
                name: (unlearnt.get_parameter(name) - model.get_parameter(name)).abs()
                for name in rivals
            }
            chosen = most_changed(changes, int(self.neurons * sum(rivals.values())))
            zeroed = most_changed_within(changes, chosen, self.weights)
            for name, where in zeroed.items():
                model.get_parameter(name).masked_fill_(where, 0)
        layers = {name: int(which.sum()) for name, which in chosen.items() if which.any()}
        self.details |= {
            "filters": sum(layers.values()),
            "weights": sum(int(where.sum()) for where in zeroed.values()),
            "per_layer": layers,
        }

    def unlearn(self, copy: nn.Module, data: ImageSet) -> nn.Module:
        """`copy` after it has unlearnt to classify `data`."""
        module = Unlearning(copy, self.unlearning, self.crop_flip, self.seed)
        module.engine, module.data = self.engine, data
        largest = round(int(data.labels.bincount().max()) / len(data), 6)  # as accuracies are
        module.chance = max(0.1, largest) if self.chance is None else self.chance
        self.engine.fit(module, data, "tsbd unlearning")
        self.details = {"unlearnt_accuracy": module.accuracy, "unlearn_epochs": module.epochs}
        return copy
