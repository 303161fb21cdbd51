"""FP: prunes the channels of the last feature map that clean images leave dormant, then fine-tunes.

Paper     Liu et al., "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks",
          RAID 2018; defaults of BackdoorBench (defense/fp.py)
Differs   the accuracy that says when to stop is that of held-out auxiliary images, where
          BackdoorBench looks at test images, and only a lower one stops; the last step that was
          harmless is what remains; channels are ranked on the images that are not held out,
          without augmentation, and by magnitude, since the last map of some models is signed;
          pruned entries stay 0 while tuning, which sees all images, those held out before as well;
          a unit is a channel of VGG too, where BackdoorBench's is an entry of the pooled map; bf16
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from math import ceil
from typing import Literal

import torch
from torch import Tensor, nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.callbacks.masked_gradients import MaskedGradients
from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses._base import Defense
from backdoor_lab.defenses.fp.channels import entries, last_stage, prunable_map
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import watched
from backdoor_lab.training import Recipe, backdoorbench, sgd
from backdoor_lab.validation import (
    Count,
    Fraction,
    Index,
    Momentum,
    NonNegative,
    Positive,
    Rate,
    validated,
)


class FP(Defense):
    """Zeroes channels from the least active on, as long as the accuracy stays; then tunes.

    Args:
        where: what of a channel is pruned: its columns in the layer that reads the `map`, or also
            its filters and BatchNorm entries in the last `stage`, where that is a module.
        statistic: by which channels are ranked, a mean over images and pixels: `abs` or `signed`.
        step: share of the channels that go between two looks at the accuracy, rounded up.
        acc_ratio: share of the accuracy which may be lost by pruning.
        tuned: which layers are tuned: `all`, or the last `stage` and the reader of its map.
        epochs: of fine-tuning; 0: prune only.
        lr: learning rate, at its start.
        momentum: of SGD.
        weight_decay: of what is tuned.
        batch_size: images a step.
        t_max: epochs of the half cosine; None: all.
        patience: epochs without a lower training loss until the rate is a tenth, instead of the
            cosine; None: cosine.
    """

    least = 4  # half may be held out

    @validated
    def __init__(
        self,
        where: Literal["map", "stage"],
        statistic: Literal["abs", "signed"],
        step: Rate,
        acc_ratio: Fraction,
        tuned: Literal["all", "stage"],
        epochs: Index,
        lr: Positive,
        momentum: Momentum,
        weight_decay: NonNegative,
        batch_size: Count,
        t_max: Count | None,
        patience: Index | None,
    ) -> None:
        super().__init__()
        self.where, self.statistic, self.tuned = where, statistic, tuned
        self.step, self.acc_ratio, self.epochs = step, acc_ratio, epochs
        schedule = partial(backdoorbench, t_max=t_max, patience=patience)
        self.recipe = Recipe(max(1, epochs), batch_size, lr, sgd(momentum, weight_decay), schedule)

    def check_model(self, model: nn.Module) -> None:
        super().check_model(model)
        try:
            stage = last_stage(model, self.spec.shape)
        except ValueError as error:
            raise ConfigError(
                f"{error}, but {self.choice} prunes its channels; allowed: a convolutional network"
            ) from None
        if stage is None:
            for key in ("where", "tuned"):
                if getattr(self, key) == "stage":
                    allowed = "map" if key == "where" else "all"
                    raise ConfigError(
                        f"{self.key}.{key}=stage, but the last stage of this model is no module of "
                        f"its own; allowed: {allowed}, or a ResNet"
                    )

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        model = model.to(self.engine.device).eval()
        train, held = self.hold_out(aux.labelled_data)
        _, reader = prunable_map(model, self.spec.shape[0])
        stage = last_stage(model, self.spec.shape)
        of = partial(entries, model, reader, stage if self.where == "stage" else None)
        order = self.activity(model, reader, train).argsort(stable=True)
        count = self.choose(model, order, of, held)
        off = of(first(order, count))
        zero(model, off)
        self.details |= {"pruned": count, "channels": len(order), "layer": reader}
        if not self.epochs:
            return model
        if self.tuned == "stage":
            tuned = (f"{stage}.", f"{reader}.")
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.startswith(tuned))
        return self.fit(model, aux.labelled_data, [MaskedGradients(off)]).requires_grad_(True)

    def activity(self, model: nn.Module, reader: str, data: ImageSet) -> Tensor:
        """The statistic (C,) of each channel of what enters layer `reader`, over `data`."""
        sums: list[Tensor] = []
        layer = model.get_submodule(reader)

        def look(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: None) -> None:
            if module is layer:
                units = inputs[0].double()
                units = units.abs() if self.statistic == "abs" else units
                sums.append(units.reshape(*units.shape[:2], -1).mean(2).sum(0))

        with watched(model, look, (nn.Conv2d, nn.Linear), before=True):
            self.engine.predict(model, data)
        return torch.stack(sums).sum(0) / len(data)

    def choose(
        self,
        model: nn.Module,
        order: Tensor,
        of: Callable[[Tensor], dict[str, Tensor]],
        held: ImageSet,
    ) -> int:
        """How many channels go: the most before the accuracy on `held` falls too far.

        Args:
            model: read only.
            order: the channels (C,), least active first.
            of: the entries that belong to channels (C,), bool.
            held: images that chose nothing yet.
        """
        trial = deepcopy(model)
        before = kept = self.engine.accuracy(model, held)
        count, step = 0, ceil(self.step * len(order))
        for more in range(step, len(order), step):
            zero(trial, of(first(order, more)))
            accuracy = self.engine.accuracy(trial, held)
            if max(0.0, before - accuracy) >= self.acc_ratio * before:
                break
            count, kept = more, accuracy
        self.details = {"held_out": len(held), "accuracy": before, "pruned_accuracy": kept}
        return count


def first(order: Tensor, count: int) -> Tensor:
    """Which channels (C,), bool, are the first `count` of `order` (C,)."""
    off = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    off[order[:count]] = True
    return off


@torch.no_grad()
def zero(model: nn.Module, chosen: dict[str, Tensor]) -> None:
    """Set the `chosen` entries of parameters of `model` to 0, in place."""
    for name, which in chosen.items():
        model.get_parameter(name).masked_fill_(which, 0)
