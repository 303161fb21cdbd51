"""The mean loss of an epoch, summed on the device."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer


class EpochLoss(Callback):
    """Logs `<title>/loss` once an epoch; a log at each step would synchronise the device.

    Schedules may monitor it as `loss`.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.total: torch.Tensor | float = 0.0
        self.steps = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        if outputs is not None:
            self.total = self.total + outputs["loss"].detach()
            self.steps += 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.steps:
            mean = self.total / self.steps
            pl_module.log("loss", mean, logger=False)
            if trainer.logger is not None:
                epoch = {f"{self.title}/epoch": trainer.current_epoch + 1}
                trainer.logger.log_metrics({f"{self.title}/loss": float(mean), **epoch})
        self.total, self.steps = 0.0, 0
