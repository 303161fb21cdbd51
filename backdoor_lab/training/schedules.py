"""How a learning rate falls: each takes an optimizer, the epochs, the steps of an epoch."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedulers

from backdoor_lab.validation import Count, Index, NonNegative, Rate, validated


def constant(optimizer: Optimizer, epochs: int, steps: int) -> dict[str, Any]:
    """The same rate throughout."""
    del epochs, steps
    return {"scheduler": schedulers.ConstantLR(optimizer, factor=1.0), "interval": "epoch"}


@validated
def cosine(
    optimizer: Optimizer,
    epochs: int,
    steps: int,
    t_max: Count | None = None,
    floor: NonNegative = 0.0,
) -> dict[str, Any]:
    """Half a cosine from the rate to `floor`, a step an epoch.

    `t_max` epochs make the half; BackdoorBench keeps 100 whatever the number of epochs.
    """
    del steps
    anneal = schedulers.CosineAnnealingLR(optimizer, t_max or epochs, eta_min=floor)
    return {"scheduler": anneal, "interval": "epoch"}


@validated
def waves(optimizer: Optimizer, epochs: int, steps: int, t_max: Count = 100) -> dict[str, Any]:
    """Half a cosine down in `t_max` steps, up again in as many, over and over.

    BackdoorBench's FT-SAM: its cosine of 100 epochs takes a step a batch.
    """
    del epochs, steps
    anneal = schedulers.CosineAnnealingLR(optimizer, t_max)
    return {"scheduler": anneal, "interval": "step"}


@validated
def multi_step(
    optimizer: Optimizer, epochs: int, steps: int, milestones: list[Count], gamma: Rate = 0.1
) -> dict[str, Any]:
    """The rate times `gamma` at each milestone (epochs)."""
    del epochs, steps
    decay = schedulers.MultiStepLR(optimizer, milestones, gamma)
    return {"scheduler": decay, "interval": "epoch"}


@validated
def one_cycle(optimizer: Optimizer, epochs: int, steps: int, warm_up: Rate = 0.3) -> dict[str, Any]:
    """Up to the rate and down to nothing, a step a batch; for short trainings.

    The momentum goes from 0.95 to 0.85 and back meanwhile, whatever the optimizer's was.
    """
    peak = optimizer.param_groups[0]["lr"]
    cycle = schedulers.OneCycleLR(
        optimizer, peak, total_steps=max(2, epochs * steps), pct_start=warm_up
    )
    return {"scheduler": cycle, "interval": "step"}


@validated
def plateau(optimizer: Optimizer, epochs: int, steps: int, patience: Index) -> dict[str, Any]:
    """A tenth of the rate after more than `patience` epochs without a lower training loss."""
    del epochs, steps
    scheduler = schedulers.ReduceLROnPlateau(optimizer, patience=patience)
    return {"scheduler": scheduler, "interval": "epoch", "monitor": "loss"}


@validated
def backdoorbench(
    optimizer: Optimizer,
    epochs: int,
    steps: int,
    t_max: Count | None = None,
    milestones: list[Count] | None = None,
    patience: Index | None = None,
) -> dict[str, Any]:
    """`multi_step` where there are milestones, else `plateau` with a patience, else `cosine`."""
    if milestones is not None:
        return multi_step(optimizer, epochs, steps, milestones)
    if patience is not None:
        return plateau(optimizer, epochs, steps, patience)
    return cosine(optimizer, epochs, steps, t_max)
