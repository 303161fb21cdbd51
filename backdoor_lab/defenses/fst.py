"""FST: draws a new head, turns it away from the old one, and tunes the features after it.

Paper     Min et al., "Towards Stable Backdoor Purification through Feature Shift Tuning",
          NeurIPS 2023, arXiv:2310.01875
Differs   the head is the last linear layer, where the official code goes by a part of its name;
          where the head is held (`layers: features`), or is all that is tuned, its norm is held as
          well, as in that code; the defaults are that code's, BackdoorBenchER's are `protocol=gic`;
          bf16
"""

from __future__ import annotations

from functools import partial
from math import sqrt
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses._base import Defense
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import Recipe, cosine, sgd
from backdoor_lab.validation import Count, Momentum, NonNegative, Positive, validated


class FST(Defense):
    """Feature shift tuning: min CE + alpha <W, W0> subject to ||W|| = ||W0||.

    W0 (classes, D) is the head's weight as the victim has it; the inner product is neither
    normalised nor averaged, so that its size goes with ||W0||^2.

    Args:
        alpha: weight of the inner product.
        fresh: what of the head is drawn anew, from U(-1 / sqrt(D), 1 / sqrt(D)).
        rescale: give the fresh weight the norm of W0 at once, instead of after the first step.
        layers: what is tuned; `features` are all but the head.
        augment: crop and flip the images.
        epochs: passes over the images.
        lr: learning rate, at its start.
        momentum: of SGD.
        weight_decay: on all parameters.
        batch_size: images a step.
        t_max: epochs of the half cosine; None: all.
    """

    @validated
    def __init__(
        self,
        alpha: NonNegative,
        fresh: Literal["all", "weight", "none"],
        rescale: bool,
        layers: Literal["all", "features", "head"],
        augment: bool,
        epochs: Count,
        lr: Positive,
        momentum: Momentum,
        weight_decay: NonNegative,
        batch_size: Count,
        t_max: Count | None,
    ) -> None:
        super().__init__()
        self.alpha, self.fresh, self.rescale = alpha, fresh, rescale
        self.layers, self.augmented = layers, augment
        descent, anneal = sgd(momentum, weight_decay), partial(cosine, t_max=t_max)
        self.recipe = Recipe(epochs, batch_size, lr, descent, anneal)

    def check_model(self, model: nn.Module) -> None:
        super().check_model(model)
        classes = self.spec.num_classes
        if [layer.out_features for layer in linear_layers(model)][-1:] != [classes]:
            raise ConfigError(
                f"model without a last linear layer of {classes} outputs, but {self.choice} works "
                "on it; allowed: a model that has one, such as those in conf/model"
            )

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        data = aux.labelled_data
        head = linear_layers(model.to(self.engine.device))[-1]
        self.old = head.weight.detach().clone()
        self.renew(head)
        model.requires_grad_(self.layers != "head")
        head.requires_grad_(self.layers != "features")
        self.fit(model, data, augment=... if self.augmented else None)
        turned = F.cosine_similarity(head.weight.detach().flatten(), self.old.flatten(), dim=0)
        self.details = {"norm": round(float(self.old.norm()), 4), "cosine": round(float(turned), 4)}
        return model.requires_grad_(True)

    @torch.no_grad()
    def renew(self, head: nn.Linear) -> None:
        """Draw what of `head` shall be fresh."""
        if self.fresh == "none":
            return
        generator = generator_for(self.seed, "head")
        for part in [head.weight] if self.fresh == "weight" else head.parameters():
            drawn = torch.rand(part.shape, generator=generator) * 2 - 1
            part.copy_(drawn / sqrt(head.in_features))
        if self.rescale:
            project(head.weight, self.old)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        weight = linear_layers(self.model)[-1].weight
        return super().training_step(batch, batch_idx) + self.alpha * (weight * self.old).sum()

    def on_train_batch_end(self, *args: Any) -> None:
        """After each step, or growth alone would lower the inner product."""
        project(linear_layers(self.model)[-1].weight, self.old)


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    """Those of `model`, in module order; the last one is its head."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


@torch.no_grad()
def project(weight: Tensor, old: Tensor) -> None:
    """Give `weight` the Frobenius norm of `old`, in place."""
    weight.mul_(old.norm() / weight.norm())
