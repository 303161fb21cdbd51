"""How large a model is."""

from torch import nn


def parameter_count(model: nn.Module) -> int:
    """How many numbers the parameters of `model` hold; buffers are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())
