"""How a model is trained: epochs, batch, SGD and its schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as schedulers

from backdoor_lab.validation import Count, NonNegative, Positive, Share

Schedule = Callable[[Optimizer, int, int], dict[str, Any]]


def constant(optimizer: Optimizer, epochs: int, steps: int) -> dict[str, Any]:
    """The same rate throughout."""
    del epochs, steps
    return {"scheduler": schedulers.ConstantLR(optimizer, factor=1.0), "interval": "epoch"}


def cosine(
    optimizer: Optimizer,
    epochs: int,
    steps: int,
    t_max: int | None = None,
    floor: float = 0.0,
) -> dict[str, Any]:
    """Half a cosine from the rate to `floor`, a step an epoch.

    `t_max` epochs make the half; BackdoorBench keeps 100 whatever the number of epochs.
    """
    del steps
    anneal = schedulers.CosineAnnealingLR(optimizer, t_max or epochs, eta_min=floor)
    return {"scheduler": anneal, "interval": "epoch"}


def multi_step(
    optimizer: Optimizer, epochs: int, steps: int, milestones: list[int], gamma: float = 0.1
) -> dict[str, Any]:
    """The rate times `gamma` at each milestone (epochs)."""
    del epochs, steps
    decay = schedulers.MultiStepLR(optimizer, milestones, gamma)
    return {"scheduler": decay, "interval": "epoch"}


def one_cycle(
    optimizer: Optimizer, epochs: int, steps: int, warm_up: float = 0.3
) -> dict[str, Any]:
    """Up to the rate and down to nothing, a step a batch; for short trainings."""
    peak = optimizer.param_groups[0]["lr"]
    cycle = schedulers.OneCycleLR(
        optimizer, peak, total_steps=max(2, epochs * steps), pct_start=warm_up
    )
    return {"scheduler": cycle, "interval": "step"}


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True, extra="forbid"))
class Recipe:
    """SGD with a schedule.

    Attributes:
        epochs: passes over the data.
        batch_size: images a step.
        lr: learning rate, the peak of the schedule.
        momentum: of SGD.
        weight_decay: on all parameters.
        schedule: `cosine`, `one_cycle`, `multi_step` or `constant`, as a partial.
        drop_last: drop an incomplete last batch.
    """

    epochs: Count
    batch_size: Count
    lr: Positive
    momentum: Share = 0.9
    weight_decay: NonNegative = 5e-4
    schedule: Callable[..., dict[str, Any]] = cosine
    drop_last: bool = False

    def optimizers(self, parameters: Iterable[nn.Parameter], steps: int) -> dict[str, Any]:
        """What `configure_optimizers` returns, for epochs of `steps` batches."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        sgd = SGD(trained, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return {
            "optimizer": sgd,
            "lr_scheduler": self.schedule(sgd, self.epochs, steps),
        }
