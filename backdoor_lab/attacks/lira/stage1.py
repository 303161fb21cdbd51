"""LIRA's first stage: generator and classifier learn together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from backdoor_lab.attacks._views import generators
from backdoor_lab.attacks.lira.networks import Perturb
from backdoor_lab.models import frozen_copy
from backdoor_lab.seeds import derive
from backdoor_lab.training import Manual, Recipe, constant, sgd

if TYPE_CHECKING:
    from backdoor_lab.attacks.lira.lira import LIRA


class Together(Manual):
    """Stage 1: Adam on the noise, SGD on the classifier, in turns.

    The classifier sees the noise of `old`, the generator as it was when the epoch began.
    """

    def __init__(self, attack: LIRA, noise: Perturb, classifier: nn.Module) -> None:
        super().__init__()
        self.model = classifier
        self.noise, self.old = noise, frozen_copy(noise)
        self.alpha = attack.alpha
        self.relabel: Callable[[Tensor], Tensor] = attack.relabel
        self.views, self.seed = attack.views, derive(attack.seed, "stage 1")
        self.recipe = Recipe(
            epochs=attack.stage1_epochs,
            batch_size=attack.recipe.batch_size,
            lr=attack.stage1_lr,
            optimizer=sgd(weight_decay=0),
            schedule=constant,
        )
        self.noise_recipe = replace(self.recipe, lr=attack.generator_lr, optimizer=Adam)

    def configure_optimizers(self) -> Any:
        steps = self.steps_per_epoch
        return [
            self.noise_recipe.optimizers(self.noise.parameters(), steps),
            self.recipe.optimizers(self.model.parameters(), steps),
        ]

    def on_train_epoch_start(self) -> None:
        self.cpu_generator, self.generator = generators(
            self.seed, f"lira {self.current_epoch}", self.device
        )
        self.old.load_state_dict(self.noise.state_dict())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        adam, descent = cast("list[Any]", self.optimizers())
        images, labels = batch
        wanted = self.relabel(labels)
        views = self.views(images, self.cpu_generator, self.generator)
        with self.toggled_optimizer(adam):
            self.descend(F.cross_entropy(self.model(self.noise(views)), wanted), adam)
        loss = mixed_loss(self.model, views, labels, self.old(views), wanted, self.alpha)
        self.descend(loss, descent)
        return loss.detach()


def mixed_loss(
    model: nn.Module, clean: Tensor, labels: Tensor, stamped: Tensor, wanted: Tensor, alpha: float
) -> Tensor:
    """`alpha * CE(clean) + (1 - alpha) * CE(stamped)`."""
    kept, taken = model(torch.cat([clean, stamped])).chunk(2)
    return alpha * F.cross_entropy(kept, labels) + (1 - alpha) * F.cross_entropy(taken, wanted)
