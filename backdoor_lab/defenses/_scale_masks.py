"""What defenses share that learn a mask of the BatchNorm scales, and prune by it."""

from __future__ import annotations

from abc import abstractmethod
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses._base import Defense, batch_norms
from backdoor_lab.training import Manual

GRID = [step / 20 for step in range(19)]


class ScaleMasks(Defense, Manual):
    """Zeroes the gamma of channels whose mask is at most a threshold; beta stays, nothing is tuned.

    A method says how masks m in [0, 1] are searched, and in its `training_step` what they descend.

    Attributes:
        threshold: masks up to it are pruned; None: the largest value of 0, .05, ... .9 that keeps
            the accuracy on held-out auxiliary images.
        masks: what is learnt, (C,) of each BatchNorm in module order.
    """

    needs_batch_norm = True

    def __init__(self, threshold: float | None) -> None:
        super().__init__()
        self.threshold = threshold
        self.least = 2 if threshold is not None else 4  # half may be held out
        self.masks = nn.ParameterList()

    @abstractmethod
    def search(self, model: nn.Module, data: ImageSet) -> dict[str, Tensor]:
        """The mask (C,) of each BatchNorm of `model`, which stays as it is."""

    @abstractmethod
    def enough(self, accuracy: float) -> float:
        """What must be left of the victim's `accuracy`."""

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        train, held = aux.labelled_data, None
        if self.threshold is None:
            train, held = self.hold_out(train)
        masks = self.search(model, train)
        threshold = self.threshold if held is None else self.choose(model, masks, held)
        values = torch.cat(list(masks.values())).cpu()
        histogram = torch.histc(values, 20, 0, 1).int().tolist()
        gone = 0 if threshold is None else int((values <= threshold).sum())
        self.details |= {"threshold": threshold, "pruned": gone, "masks": histogram}
        return self.without(model, masks, threshold)

    def without(
        self, model: nn.Module, masks: dict[str, Tensor], threshold: float | None
    ) -> nn.Module:
        """`model`, or a copy, without the channels whose masks are at most `threshold`."""
        return model if threshold is None else pruned(model, masks, threshold)

    def learn(self, model: nn.Module, data: ImageSet) -> dict[str, Tensor]:
        """Masks of a frozen copy of `model` after `fit`, from 1 on."""
        norms = batch_norms(model)
        self.masks = nn.ParameterList([torch.ones_like(norm.weight) for norm in norms.values()])
        self.fit(deepcopy(model).requires_grad_(False), data)
        return {name: mask.detach() for name, mask in zip(norms, self.masks, strict=True)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = self.recipe.optimizers(self.masks, 1)["optimizer"]
        return optimizer

    def loss(
        self, batch: tuple[Tensor, Tensor], masks: list[Tensor], noise: list[Tensor] | None = None
    ) -> Tensor:
        """CE under `masks` [(C_l,)] and, if given, `noise` [(2, C_l)], rows delta and xi.

        A BatchNorm is gamma (m + delta) x + beta (1 + xi) then.
        """
        images, labels = batch
        norms = batch_norms(self.model)
        noise = noise or [torch.zeros(2, len(mask), device=mask.device) for mask in masks]
        scaled = {}
        for name, mask, (delta, xi) in zip(norms, masks, noise, strict=True):
            scaled[f"{name}.weight"] = norms[name].weight * (mask + delta)
            scaled[f"{name}.bias"] = norms[name].bias * (1 + xi)
        return F.cross_entropy(functional_call(self.model, scaled, images), labels)

    def step(self, loss: Tensor) -> Tensor:
        """`loss`, after one step of the masks down its gradient and back into [0, 1]."""
        optimizer: Any = self.optimizers()
        self.descend(loss, optimizer)
        with torch.no_grad():
            for mask in self.masks:
                mask.clamp_(0, 1)
        return loss

    def choose(self, model: nn.Module, masks: dict[str, Tensor], held: ImageSet) -> float | None:
        """The largest threshold that keeps the accuracy on `held`; None if there is none."""
        wanted = self.enough(self.engine.accuracy(model, held))
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
