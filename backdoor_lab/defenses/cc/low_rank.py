"""Ranks for a budget of parameters: one threshold for the singular values of all layers."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backdoor_lab.models import parameter_count
from backdoor_lab.models.rank_scaling import convolutions
from backdoor_lab.models.tucker import Tucker, tucker_size


@dataclass(frozen=True)
class Spectrum:
    """A kernel's shape (O, I, K, K) and the singular values of its two unfoldings."""

    shape: torch.Size
    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, form: Tucker) -> Spectrum:
        outputs, inputs = len(form.left), len(form.right)
        shape = torch.Size((outputs, inputs, *form.core.shape[2:]))
        return cls(shape, form.rows.cpu(), form.columns.cpu())

    def ranks(self, threshold: float) -> tuple[int, int]:
        """How many of `rows` and `columns` reach the threshold, one at least."""
        first, second = ((one >= threshold).sum().item() for one in (self.rows, self.columns))
        return max(1, int(first)), max(1, int(second))

    def size(self, threshold: float) -> int:
        """Weights at the ranks of a threshold; a layer that would grow stays as it is."""
        return min(self.shape.numel(), tucker_size(self.shape, *self.ranks(threshold)))


def threshold_for(spectra: dict[str, Spectrum], weights: float) -> float:
    """The lowest singular value as a threshold at which all layers have `weights` at most."""
    values = torch.cat([torch.cat([one.rows, one.columns]) for one in spectra.values()])
    candidates = values.unique().tolist()

    def fits(threshold: float) -> bool:
        return sum(one.size(threshold) for one in spectra.values()) <= weights

    index = bisect_left(candidates, True, key=fits)
    return float(candidates[min(index, len(candidates) - 1)])


def rest(model: nn.Module) -> int:
    """Parameters of `model` that are no kernels of its ungrouped convolutions."""
    kernels = sum(conv.weight.numel() for _, conv in convolutions(model))
    return parameter_count(model) - kernels


def smallest(model: nn.Module) -> int:
    """Parameters of `model` with every kernel at rank one."""
    shapes = [conv.weight.shape for _, conv in convolutions(model)]
    return rest(model) + sum(min(shape.numel(), tucker_size(shape, 1, 1)) for shape in shapes)
