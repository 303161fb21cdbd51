"""A training that has diverged is no result: it stops, and says where."""

from __future__ import annotations

import torch
from lightning import Callback, LightningModule, Trainer

from backdoor_lab.errors import DivergedError


class Finite(Callback):
    """Looks once an epoch, on the device, at the loss and at all that has been learnt.

    Stands behind `EpochLoss`, and before `Resume`, which must not keep what has diverged.
    """

    def __init__(self, title: str) -> None:
        self.title = title

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        learnt = [
            tensor for tensor in pl_module.state_dict().values() if tensor.is_floating_point()
        ]
        if "loss" in trainer.callback_metrics:
            learnt.append(trainer.callback_metrics["loss"])
        device = pl_module.device
        if not torch.stack([tensor.isfinite().all().to(device) for tensor in learnt]).all():
            raise DivergedError(
                f"{self.title}: loss or weights are not finite after epoch "
                f"{trainer.current_epoch + 1} of {trainer.max_epochs}, and nothing is kept; "
                "allowed: settings that converge, such as a lower lr"
            )
