"""BNP: prunes channels whose statistics on clean images are far from the running ones; no training.

Paper     Zheng et al., "Pre-activation Distributions Expose Backdoor Neurons", NeurIPS 2022
Differs   statistics of all auxiliary images instead of one batch; BatchNorm's eps is added to both
          variances, as in its forward pass, so that a channel which never varies is no outlier;
          bf16, summed in fp64. The paper's other method, EP, needs the poisoned training images,
          which no defender has here
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses._base import Defense, batch_norms
from backdoor_lab.defenses.clp import outliers
from backdoor_lab.models import watched
from backdoor_lab.training import whole
from backdoor_lab.validation import NonNegative, validated


def divergence(mean: Tensor, var: Tensor, other_mean: Tensor, other_var: Tensor) -> Tensor:
    """KL(N(mean, var) || N(other_mean, other_var)) of each channel; all (C,)."""
    spread = (var + (mean - other_mean).square()) / other_var
    return ((other_var / var).log() + spread - 1) / 2


class Moments:
    """Mean and unbiased variance (C,) of each channel, gathered batch by batch in fp64."""

    def __init__(self) -> None:
        self.count = 0
        self.sum: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, maps: Tensor) -> None:
        """Take in `maps` (N, C, H, W)."""
        values = maps.double()
        self.count += values.numel() // values.shape[1]
        self.sum = self.sum + values.sum((0, 2, 3))
        self.squares = self.squares + values.square().sum((0, 2, 3))

    def result(self) -> tuple[Tensor, Tensor]:
        mean = torch.as_tensor(self.sum) / self.count
        rest = torch.as_tensor(self.squares) - self.count * mean.square()
        return mean, rest.clamp(min=0) / (self.count - 1)


class BNP(Defense):
    """Zeroes channels whose KL(N(clean) || N(running)) is an outlier of their layer.

    The running statistics come from the poisoned training: where a trigger shifts what enters a
    BatchNorm, clean images are told from them.

    Args:
        u: standard deviations above the mean of the layer from which a channel is pruned.
        prune: what becomes 0: `gamma` alone, which leaves the channel at beta, or the `channel`.
    """

    needs_labels = False
    needs_batch_norm = True

    @validated
    def __init__(self, u: NonNegative, prune: Literal["gamma", "channel"]) -> None:
        super().__init__()
        self.u, self.prune = u, prune

    @torch.no_grad()
    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        pruned = {}
        clean = self.statistics(model, aux.data)
        for name, norm in batch_norms(model).items():
            mean, var = clean[name]
            running_mean = model.get_buffer(f"{name}.running_mean").double()
            running_var = model.get_buffer(f"{name}.running_var").double()
            far = divergence(mean, var + norm.eps, running_mean, running_var + norm.eps)
            chosen = outliers(far, self.u)
            norm.weight[chosen] = 0
            if self.prune == "channel":
                norm.bias[chosen] = 0
            pruned[name] = int(chosen.sum())
        self.details = {"pruned": sum(pruned.values()), "per_layer": pruned}
        return model.eval()

    def statistics(self, model: nn.Module, data: ImageSet) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and variance (C,) of what enters each BatchNorm when it uses its running ones.

        Images are cropped and flipped, as those were of which the running statistics tell.
        """
        moments = {name: Moments() for name in batch_norms(model)}

        def look(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: None) -> None:
            if name in moments:
                moments[name].add(inputs[0])

        size = self.engine.eval_batch_size
        batches = self.engine.batches(
            data, size, seed=self.seed, augment=self.crop_flip, shuffle=False
        )
        with self.engine.evaluating(model), watched(model, look, (nn.BatchNorm2d,), before=True):
            for images, _ in whole(batches):
                model(images)
        return {name: gathered.result() for name, gathered in moments.items()}
