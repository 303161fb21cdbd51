"""Entries that a training leaves as they are."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer


class MaskedGradients(Callback):
    """Holds entries of parameters at the value they start with, also under weight decay.

    Args:
        held: by parameter of the module's `model`, which entries are held (bool, its shape).
    """

    def __init__(self, held: dict[str, Tensor]) -> None:
        self.held = held
        self.values: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model: Any = pl_module.model
        self.values = {name: model.get_parameter(name).detach().clone() for name in self.held}
        self.held = {name: held.to(pl_module.device) for name, held in self.held.items()}

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        model: Any = pl_module.model
        for name, held in self.held.items():
            gradient = model.get_parameter(name).grad
            if gradient is not None:
                gradient.masked_fill_(held, 0)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        model: Any = pl_module.model
        for name, held in self.held.items():
            parameter = model.get_parameter(name)
            parameter.copy_(torch.where(held, self.values[name], parameter))
