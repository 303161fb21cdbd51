"""How a model is trained: epochs, batch, SGD and its schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import nn
from torch.optim import SGD

from backdoor_lab.training.schedules import cosine
from backdoor_lab.validation import Count, NonNegative, Positive, Share


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True, extra="forbid"))
class Recipe:
    """SGD with a schedule.

    Attributes:
        epochs: passes over the data.
        batch_size: images a step.
        lr: learning rate, the peak of the schedule.
        momentum: of SGD.
        weight_decay: on all parameters.
        schedule: one of `training.schedules`, as a partial.
        drop_last: drop an incomplete last batch.
    """

    epochs: Count
    batch_size: Count
    lr: Positive
    momentum: Share = 0.9
    weight_decay: NonNegative = 5e-4
    schedule: Callable[..., dict[str, Any]] = cosine
    drop_last: bool = False

    def __post_init__(self) -> None:
        """Refuse values that the schedule would choke on, before anything trains."""
        nothing = nn.Parameter(torch.zeros(1))
        self.schedule(SGD([nothing], lr=self.lr, momentum=self.momentum), self.epochs, 1)

    def optimizers(self, parameters: Iterable[nn.Parameter], steps: int) -> dict[str, Any]:
        """What `configure_optimizers` returns, for epochs of `steps` batches."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        sgd = SGD(trained, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return {
            "optimizer": sgd,
            "lr_scheduler": self.schedule(sgd, self.epochs, steps),
        }
