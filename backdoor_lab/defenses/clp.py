"""CLP: prunes channels whose Lipschitz constant is an outlier of its layer; no data, no training.

Paper     Zheng et al., "Data-free Backdoor Removal based on Channel Lipschitzness", ECCV 2022
Differs   one batched SVD a layer; sqrt(var + eps) unless `std_eps` is off, then channels without a
          finite constant are left out instead of spoiling their layer; a BatchNorm whose channels
          do not match its convolution is left alone; `pairing: graph` is ours; so is the order in
          which `compression` goes on: standard deviations above the mean of the layer
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses._base import Defense, batch_norms
from backdoor_lab.defenses._compression import check_compression, compress
from backdoor_lab.models.graph import Graph
from backdoor_lab.validation import NonNegative, Ratio, validated


def lipschitz_constants(weight: Tensor, gamma: Tensor, var: Tensor) -> Tensor:
    """Upper bounds (C,) of the Lipschitz constant of each channel of a conv and its BatchNorm.

    ||W_j||_spectral * |gamma_j| / sqrt(var_j), where W_j is a filter as a matrix (in, k*k).

    Args:
        weight: filters (C, in, k, k).
        gamma: scales (C,).
        var: variances (C,).
    """
    spectral = torch.linalg.svdvals(weight.flatten(2))[:, 0]
    return spectral * gamma.abs() / var.sqrt()


def outliers(constants: Tensor, u: float) -> Tensor:
    """Which of `constants` (C,) exceed mean + u * std (unbiased) of the finite ones, as (C,)."""
    return standardised(constants) > u


def standardised(constants: Tensor) -> Tensor:
    """Standard deviations (unbiased) above the mean of the finite `constants` (C,); else NaN."""
    finite = constants.isfinite()
    if finite.sum() < 2:
        return torch.full_like(constants, torch.nan)
    std, mean = torch.std_mean(constants[finite])
    return ((constants - mean) / std).masked_fill(~finite, torch.nan)


class CLP(Defense):
    """Sets gamma and beta of outlying channels to 0; everything else stays.

    Args:
        u: standard deviations above the mean of the layer from which a channel is pruned.
        pairing: which convolution belongs to a BatchNorm: `reference` takes the last one before it
            in module order, `graph` the one whose output reaches it.
        std_eps: whether the variance gets the BatchNorm's eps, as in its forward pass.
        compression: parameters of the victim, in those of the purified model, whose channels are
            taken out; None: they are zeroed only.
    """

    needs_images = False
    needs_labels = False
    needs_batch_norm = True

    @validated
    def __init__(
        self,
        u: NonNegative,
        pairing: Literal["reference", "graph"],
        std_eps: bool,
        compression: Ratio | None = None,
    ) -> None:
        super().__init__()
        self.u = u
        self.pairing = pairing
        self.std_eps = std_eps
        self.compression = compression
        self.keeps_architecture = compression is None

    def check_model(self, model: nn.Module) -> None:
        super().check_model(model)
        check_compression(self, model, self.compression)

    @torch.no_grad()
    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        by_graph = self.pairing == "graph"
        pairs = graph_pairs(model, self.spec.shape) if by_graph else reference_pairs(model)
        norms = batch_norms(model)
        constants, pruned = {}, {}
        for name, conv in pairs.items():
            norm = norms[name]
            var = model.get_buffer(f"{name}.running_var") + self.std_eps * norm.eps
            constants[name] = lipschitz_constants(conv.weight, norm.weight, var)
            pruned[name] = outliers(constants[name], self.u)
            norm.weight[pruned[name]] = 0
            norm.bias[pruned[name]] = 0
        counts = {name: int(chosen.sum()) for name, chosen in pruned.items()}
        unpaired = [name for name in norms if name not in pairs]
        self.details = {"pruned": sum(counts.values()), "per_layer": counts, "unpaired": unpaired}
        if self.compression:
            scores = {name: -standardised(one) for name, one in constants.items()}
            self.details |= compress(model, self.spec.shape, scores, pruned, self.compression)
        return model


def reference_pairs(model: nn.Module) -> dict[str, nn.Conv2d]:
    """The last convolution before each BatchNorm in module order, if as wide."""
    pairs: dict[str, nn.Conv2d] = {}
    norms = batch_norms(model)
    conv = None
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            conv = module
        elif name in norms and conv is not None and conv.out_channels == norms[name].num_features:
            pairs[name] = conv
    return pairs


def graph_pairs(model: nn.Module, shape: tuple[int, int, int]) -> dict[str, nn.Conv2d]:
    """The convolution whose output reaches each BatchNorm past no other one, if as wide.

    Several convolutions reach a BatchNorm behind a sum: the one executed last counts, which is the
    end of the residual branch. Behind a concatenation no width fits, unless it joins nothing.

    Args:
        model: read only.
        shape: (C, H, W) of an image.
    """
    graph = Graph(model, shape)
    kinds = nn.Conv2d | nn.BatchNorm2d
    layers = {name: one for name, one in model.named_modules() if isinstance(one, kinds)}
    pairs: dict[str, nn.Conv2d] = {}
    for name, norm in batch_norms(model).items():
        for conv in (layers[found] for found in graph.layers_before(name, layers)):
            if isinstance(conv, nn.Conv2d) and conv.out_channels == norm.num_features:
                pairs[name] = conv
    return pairs
