"""A model that stays as it is."""

from copy import deepcopy

from torch import nn


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose parameters take no gradient."""
    return deepcopy(model).eval().requires_grad_(False)
