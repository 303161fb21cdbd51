"""A model, or a part of it, that stays as it is."""

from copy import deepcopy

from torch import nn


def freeze(model: nn.Module) -> nn.Module:
    """`model` itself in eval mode, without gradients; a training of which it is part leaves it so.

    A `Supervised` module puts what is marked as frozen back into eval mode whenever it trains, but
    for parts inside that are marked as not frozen.
    """
    for module in model.modules():
        vars(module).pop("frozen", None)
    model.frozen = True  # type: ignore[assignment]
    return model.eval().requires_grad_(False)


def frozen_copy(model: nn.Module) -> nn.Module:
    """A frozen copy."""
    return freeze(deepcopy(model))


def freeze_except(model: nn.Module, free: nn.Module) -> nn.Module:
    """`model` itself, all of it frozen but its part `free`, which can be trained."""
    freeze(model)
    free.requires_grad_(True).frozen = False  # type: ignore[assignment]
    return model


def thaw(model: nn.Module) -> nn.Module:
    """`model` itself, nothing in it frozen any more; its mode stays."""
    for module in model.modules():
        vars(module).pop("frozen", None)
    return model.requires_grad_(True)
