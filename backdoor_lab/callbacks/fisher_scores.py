"""How much each parameter matters to a loss, gathered while it is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer


class FisherScores(Callback):
    """Sums (B / N) g^2 of batch gradients g over the steps, B of N images a batch.

    Of a step that passes over its batch twice (SAM) the first pass counts, which is at the weights.

    Args:
        names: parameters of the module's `model`.
        count: N, images an epoch.

    Attributes:
        scores: by name, shaped as the parameter, on its device.
    """

    def __init__(self, names: Iterable[str], count: int) -> None:
        self.names = list(names)
        self.count = count
        self.scores: dict[str, Tensor] = {}
        self.batch = 0
        self.counted = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model: Any = pl_module.model
        self.scores = {
            name: torch.zeros_like(model.get_parameter(name).data) for name in self.names
        }

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batch = len(batch[0])
        self.counted = False

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if self.counted:
            return
        self.counted = True
        model: Any = pl_module.model
        for name, score in self.scores.items():
            gradient = model.get_parameter(name).grad
            if gradient is not None:
                score += self.batch / self.count * gradient.float() ** 2
