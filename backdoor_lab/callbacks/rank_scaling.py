"""Clean & Compact's rank scaling after each epoch of a training."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from backdoor_lab.models.rank_scaling import Factors, convolutions, scale_rank_components


class RankScaling(Callback):
    """Scales `pl_module.model` in place after the last batch of an epoch.

    The epoch's end would be too late: what is measured there is to be what is saved.

    Args:
        tau: normalised singular value above which a component shrinks.
        factors: the rule, of `models.rank_scaling`.
        include_last: whether the last epoch is followed by it too.
        reset_momentum: forget the optimizer's momentum, which may point back.

    Attributes:
        scaled: components that were scaled, by epoch.
    """

    def __init__(
        self, tau: float, factors: Factors, include_last: bool = True, reset_momentum: bool = False
    ) -> None:
        self.tau = tau
        self.factors = factors
        self.include_last = include_last
        self.reset_momentum = reset_momentum
        self.scaled: list[int] = []

    def __repr__(self) -> str:
        options = (self.tau, self.factors.__name__, self.include_last, self.reset_momentum)
        return f"{type(self).__name__}{options}"

    def state_dict(self) -> dict[str, Any]:
        return {"scaled": self.scaled}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scaled = list(state_dict["scaled"])

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 < int(trainer.num_training_batches):
            return
        if trainer.current_epoch + 1 == trainer.max_epochs and not self.include_last:
            return
        count = 0
        for _, convolution in convolutions(pl_module.model):  # type: ignore[arg-type]
            weight, number = scale_rank_components(convolution.weight, self.tau, self.factors)
            convolution.weight.copy_(weight)
            count += number
        self.scaled.append(count)
        if self.reset_momentum:
            for optimizer in trainer.optimizers:
                for parameter in pl_module.model.parameters():  # type: ignore[union-attr]
                    optimizer.state.pop(parameter, None)
