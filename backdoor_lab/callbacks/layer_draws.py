"""What layers draw by themselves, such as dropout, follows from the training's seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from lightning import Callback, Trainer

from backdoor_lab.seeds import derive

if TYPE_CHECKING:
    from backdoor_lab.training import Supervised


class LayerDraws(Callback):
    """Seeds PyTorch's generator for each epoch, so that a resumed training draws the same."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Supervised) -> None:  # type: ignore[override]
        torch.manual_seed(derive(pl_module.seed, f"layers {trainer.current_epoch}"))
