"""How a model is trained: epochs, batch, optimizer and its schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass
from torch import nn
from torch.optim import SGD, Optimizer

from backdoor_lab.errors import ConfigError
from backdoor_lab.training.schedules import cosine
from backdoor_lab.validation import Count, Positive


@contextmanager
def naming(key: str) -> Iterator[None]:
    """What a partial makes of its arguments, in one sentence that names them.

    Raises:
        ConfigError: they do not fit.
    """
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([key, *(str(part) for part in first["loc"])])
        raise ConfigError(f"{where}={first['input']!r} does not fit: {first['msg']}") from None
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{key} does not fit: {reason}; allowed: what it takes") from None


def sgd(
    momentum: float = 0.9, weight_decay: float = 5e-4, nesterov: bool = False
) -> Callable[..., Optimizer]:
    """SGD but for its parameters and its rate."""
    return partial(SGD, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True, extra="forbid"))
class Recipe:
    """Any optimizer with any schedule.

    Attributes:
        epochs: passes over the data.
        batch_size: images a step.
        lr: learning rate, the peak of the schedule.
        optimizer: of `torch.optim` or `training.sam`, as a partial that wants parameters and `lr`.
        schedule: one of `training.schedules`, as a partial.
        drop_last: drop an incomplete last batch.
    """

    epochs: Count
    batch_size: Count
    lr: Positive
    optimizer: Callable[..., Optimizer] = sgd()
    schedule: Callable[..., dict[str, Any]] = cosine
    drop_last: bool = False

    def __post_init__(self) -> None:
        """Refuse values that optimizer or schedule would choke on, before anything trains."""
        weights = [nn.Parameter(torch.zeros(1))]
        with naming("recipe.optimizer"):
            optimizer = self.optimizer(weights, lr=self.lr)
        if optimizer.defaults.get("momentum", 0) >= 1:
            raise ConfigError(
                f"recipe.optimizer.momentum={optimizer.defaults['momentum']} never settles; "
                "allowed: 0 to less than 1"
            )
        with naming("recipe.schedule"):
            self.schedule(optimizer, self.epochs, 1)

    def optimizers(self, parameters: Iterable[nn.Parameter], steps: int) -> dict[str, Any]:
        """What `configure_optimizers` returns, for epochs of `steps` batches."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        optimizer = self.optimizer(trained, lr=self.lr)
        return {
            "optimizer": optimizer,
            "lr_scheduler": self.schedule(optimizer, self.epochs, steps),
        }

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides, as plain text and numbers: what an artifact is found by."""
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "optimizer": _spelled(self.optimizer),
            "schedule": _spelled(self.schedule),
            "drop_last": self.drop_last,
        }


def _spelled(function: Callable[..., Any]) -> str:
    """A function's name, with the arguments that a partial holds."""
    if not isinstance(function, partial):
        return str(getattr(function, "__name__", type(function).__name__))
    held = [f"{name}={_held(value)}" for name, value in sorted(function.keywords.items())]
    return f"{_spelled(function.func)}({', '.join(held)})"


def _held(value: Any) -> str:
    return _spelled(value) if callable(value) else repr(value)
