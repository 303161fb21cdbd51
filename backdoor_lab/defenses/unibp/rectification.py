"""A copy of the victim rebuilds the backdoor from clean images; its entries are scored then."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from typing_extensions import TypedDict

from backdoor_lab.defenses._base import batch_norms
from backdoor_lab.defenses._statistics import Statistics
from backdoor_lab.training import Tuning
from backdoor_lab.validation import Index, Positive


class Rectification(TypedDict):
    """Passes over the data, and learning rate, of the phase that rebuilds the backdoor."""

    epochs: Index
    lr: Positive


def bn_distance(batch: Statistics, stored: Statistics, var_weight: float = 0.05) -> Tensor:
    """Mean over layers of ||mu - mu*|| + lambda ||v - v*||; (mean, variance) (C,) of each layer."""
    layers = []
    for name, (mean, var) in batch.items():
        stored_mean, stored_var = stored[name]
        layers.append(_norm(mean - stored_mean) + var_weight * _norm(var - stored_var))
    return torch.stack(layers).mean()


def _norm(vector: Tensor) -> Tensor:
    """Euclidean norm of (C,) with a finite gradient at 0."""
    return (vector.square().sum() + 1e-12).sqrt()


@torch.no_grad()
def reset_affine(model: nn.Module) -> nn.Module:
    """Gamma = 1 and beta = 0 in every BatchNorm of `model`, in place."""
    for norm in batch_norms(model).values():
        norm.weight.fill_(1)
        norm.bias.fill_(0)
    return model


class Rectifier(Tuning):
    """CE + weight * log L_BN: draws batch statistics to the victim's `stored` ones."""

    statistics: Statistics
    stored: Statistics
    bn_weight: float
    var_weight: float

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        distance = bn_distance(self.statistics, self.stored, self.var_weight)
        return loss + self.bn_weight * (distance + 1e-12).log()


def still(parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """An optimizer that leaves `parameters` as they are, where gradients alone are wanted."""
    del lr
    return SGD(parameters, lr=0.0)
