"""COMBAT's alternated training of a surrogate victim and the distortion that deceives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from backdoor_lab.attacks._views import Views, generators
from backdoor_lab.attacks.combat.distortion import Distortion
from backdoor_lab.models import freeze
from backdoor_lab.training import Manual, Recipe


@dataclass(frozen=True)
class Rules:
    """Of the alternated training: a `share` of class `target` is poisoned."""

    target: int
    share: float
    l2_weight: float
    clean_weight: float
    views: Views


class Alternation(Manual):
    """Per batch a step of the surrogate victim, `model`, then one of the distortion."""

    def __init__(
        self,
        distortion: Distortion,
        surrogate: nn.Module,
        clean: nn.Module,
        rules: Rules,
        recipe: Recipe,
        seed: int,
    ) -> None:
        super().__init__()
        self.distortion = distortion
        self.model = surrogate
        self.clean = freeze(clean)
        self.rules, self.recipe, self.seed = rules, recipe, seed

    def configure_optimizers(self) -> Any:
        return [
            self.recipe.optimizers(net.parameters(), self.steps_per_epoch)
            for net in (self.model, self.distortion)
        ]

    def on_train_epoch_start(self) -> None:
        self.cpu_generator, self.generator = generators(
            self.seed, f"combat {self.current_epoch}", self.device
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        optimizers: list[Optimizer] = self.optimizers()  # type: ignore[assignment]
        stamped = self.distortion(images, self.generator)
        self.descend(self.surrogate_loss(images, stamped.detach(), labels), optimizers[0])
        self.model.eval().requires_grad_(False)
        loss = self.generator_loss(images, stamped, labels)
        self.descend(loss, optimizers[1])
        self.model.train().requires_grad_(True)
        return loss.detach()

    def surrogate_loss(self, images: Tensor, stamped: Tensor, labels: Tensor) -> Tensor:
        """Of a clean-label victim: a random part of class t bears the trigger, labels are true."""
        chance = torch.rand(len(images), generator=self.generator, device=images.device)
        chosen = (labels == self.rules.target) & (chance < self.rules.share)
        poisoned = torch.where(chosen.view(-1, 1, 1, 1), stamped, images)
        return F.cross_entropy(self.model(self.view(poisoned)), labels)

    def generator_loss(self, images: Tensor, stamped: Tensor, labels: Tensor) -> Tensor:
        """The surrogate is to see class t, the clean model the true class, the eye no change."""
        rules = self.rules
        wanted = torch.full_like(labels, rules.target)
        fooled = F.cross_entropy(self.model(self.view(stamped)), wanted)
        change = 4 * F.mse_loss(stamped, images)  # on images in [-1, 1]
        unseen = F.cross_entropy(self.clean(self.view(stamped)), labels)
        return fooled + rules.l2_weight * change + rules.clean_weight * unseen

    def view(self, images: Tensor) -> Tensor:
        """A new view of `images`."""
        return self.rules.views(images, self.cpu_generator, self.generator)
