"""A model that stays as it is."""

from copy import deepcopy

from torch import nn


def freeze(model: nn.Module) -> nn.Module:
    """`model` itself in eval mode, without gradients; a training of which it is part leaves it so.

    A `Supervised` module puts what is marked as frozen back into eval mode whenever it trains.
    """
    model.frozen = True  # type: ignore[assignment]
    return model.eval().requires_grad_(False)


def frozen_copy(model: nn.Module) -> nn.Module:
    """A frozen copy."""
    return freeze(deepcopy(model))
