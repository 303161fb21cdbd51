"""One progress bar for a whole training, with the time left."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from backdoor_lab.console import progress_bar


class FitProgress(Callback):
    """Counts steps without looking at what they computed, so nothing waits for the device.

    Off a terminal the bar's line, every half minute, does look: at the loss of the last step.
    """

    def __init__(self, title: str, shown: bool, batch_size: int = 0) -> None:
        self.title = title
        self.batch_size = batch_size
        self.bar = progress_bar(shown)
        self.loss: torch.Tensor | None = None
        self.steps, self.start = 0, time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.start()
        self.start = time.monotonic()
        self.trainer = trainer
        steps, epochs = int(trainer.num_training_batches), int(trainer.max_epochs or 1)
        done = steps * trainer.current_epoch
        total = steps * epochs
        self.task = self.bar.add_task(self.title, total=total, completed=done, told=self.told)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.steps += 1
        self.loss = outputs["loss"].detach() if outputs is not None else None
        self.bar.advance(self.task)

    def told(self) -> str:
        """Such as `epoch 3 of 20, loss 0.312, 1,480 images/s`."""
        loss = "" if self.loss is None else f", loss {self.loss.item():.3g}"
        speed = self.steps * self.batch_size / (time.monotonic() - self.start)
        epoch = f"epoch {self.trainer.current_epoch + 1} of {self.trainer.max_epochs}"
        return f"{epoch}{loss}, {speed:,.0f} images/s"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.bar.stop()
