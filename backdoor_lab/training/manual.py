"""For steps that drive several optimizers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from backdoor_lab.training.supervised import Supervised


class Manual(Supervised):
    """`Supervised` whose step descends by itself; schedules step at their own intervals.

    Attributes:
        clip_value: largest norm of the gradients of an optimizer, told by the engine, or None.
    """

    clip_value: float | None = None

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def descend(self, loss: Tensor, *optimizers: Optimizer) -> None:
        """One step of all `optimizers` down the gradient of `loss`."""
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            self.clip(optimizer)
            optimizer.step()

    def clip(self, optimizer: Optimizer) -> None:
        """Clip gradients where the user asks for it; Lightning leaves that to a manual step."""
        if self.clip_value is not None:
            self.clip_gradients(optimizer, self.clip_value, "norm")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        last = batch_idx + 1 == self.steps_per_epoch
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):
                continue
            if last or config.interval == "step":
                config.scheduler.step()

    def on_train_epoch_end(self) -> None:
        """Step the schedules that look at the loss, which is known now."""
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):
                config.scheduler.step(self.trainer.callback_metrics["loss"])
