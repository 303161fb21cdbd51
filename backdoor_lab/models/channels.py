"""Channels that can be taken out of an architecture, so that its layers really get smaller.

A channel can go where a convolution's output is read by one BatchNorm alone, and that one's output
by convolutions and linear layers alone, behind activations and pooling. What enters a residual sum,
a concatenation or a grouped convolution has to keep its width.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backdoor_lab.models.edits import replace
from backdoor_lab.models.graph import Graph
from backdoor_lab.models.layers import KINDS, built, described
from backdoor_lab.models.sizes import parameter_count


@dataclass(frozen=True)
class Site:
    """A convolution whose output channels can be taken out, its BatchNorm, and their readers."""

    conv: str
    norm: str
    readers: tuple[str, ...]


def sites(model: nn.Module, shape: tuple[int, int, int]) -> list[Site]:
    """Every place in `model` where channels can be taken out; `shape` (C, H, W) of an image."""
    graph = Graph(model, shape)
    found = []
    for norm, node in graph.inputs.items():
        layer = model.get_submodule(norm)
        if not isinstance(layer, nn.BatchNorm2d) or not layer.affine or not _tellable(layer):
            continue
        convs = [name for name, output in graph.outputs.items() if output is node]
        alone = graph.entered.get(node) == [norm] and len(graph.readers.get(node, [])) == 1
        readers = graph.layers_behind(graph.outputs[norm]) if alone else None
        if convs and readers and all(_plain(model, name) for name in (*convs, *readers)):
            found.append(Site(convs[0], norm, tuple(readers)))
    return found


def _plain(model: nn.Module, name: str) -> bool:
    layer = model.get_submodule(name)
    if isinstance(layer, nn.Conv2d):
        return type(layer) is nn.Conv2d and layer.groups == 1
    return isinstance(layer, nn.Linear)


def _tellable(norm: nn.BatchNorm2d) -> bool:
    """Whether a BatchNorm, with timm's activation inside, is made of layers that text can tell."""
    return all(type(child) in KINDS for child in norm.children())


def removal(
    model: nn.Module,
    places: list[Site],
    scores: Mapping[str, Tensor],
    ratio: float,
) -> dict[str, Tensor]:
    """Which channels (C,) of each site's BatchNorm stay: all `places` share one order.

    Channels go from the lowest score (C,) on, until the model has 1 / `ratio` of its parameters,
    and beyond that while the score is -inf; a site's last channel stays.
    """
    names = [site.norm for site in places if site.norm in scores]
    values, order = torch.cat([_spared(scores[name].cpu().float()) for name in names]).sort()
    owner = torch.cat([torch.full((len(scores[name]),), n) for n, name in enumerate(names)])[order]
    budget = parameter_count(model) / ratio

    def fits(count: int) -> bool:
        gone = owner[:count].bincount(minlength=len(names)).tolist()
        return size(model, places, dict(zip(names, gone, strict=True))) <= budget

    most = int((values < torch.inf).sum())
    count = max(bisect_left(range(most), True, key=fits), int((values == -torch.inf).sum()))
    stays = torch.ones(len(order), dtype=torch.bool)
    stays[order[:count]] = False
    parts = stays.split([len(scores[name]) for name in names])
    return dict(zip(names, parts, strict=True))


def _spared(scores: Tensor) -> Tensor:
    """`scores` (C,) with the highest at infinity, and what is no number too."""
    scores = scores.masked_fill(scores.isnan(), torch.inf)
    return scores.index_fill(0, scores.argmax(), torch.inf)


def size(model: nn.Module, places: list[Site], gone: Mapping[str, int]) -> int:
    """Parameters of `model` when as many channels are `gone` at each site, by its BatchNorm."""
    lost_out = {site.conv: gone.get(site.norm, 0) for site in places}
    lost_in = {reader: gone.get(site.norm, 0) for site in places for reader in site.readers}
    spans = {reader: _span(model, site, reader) for site in places for reader in site.readers}
    total = parameter_count(model) - 2 * sum(gone.values())
    for name in lost_out.keys() | lost_in.keys():
        layer: Any = model.get_submodule(name)
        outputs, inputs = layer.weight.shape[:2]
        left = outputs - lost_out.get(name, 0)
        width = inputs - lost_in.get(name, 0) * spans.get(name, 1)
        total -= layer.weight.numel() // (outputs * inputs) * (outputs * inputs - left * width)
        total -= (outputs - left) * (layer.bias is not None)
    return total


def smallest(model: nn.Module, places: list[Site]) -> int:
    """Parameters of `model` with one channel at each site."""
    return size(model, places, {site.norm: _norm(model, site).num_features - 1 for site in places})


@torch.no_grad()
def shrink(model: nn.Module, places: list[Site], stays: Mapping[str, Tensor]) -> None:
    """Take out the channels (C,) that do not stay: smaller layers in the places of the old ones."""
    for site in places:
        if site.norm not in stays or stays[site.norm].all():
            continue
        norm = _norm(model, site)
        kept = stays[site.norm].nonzero().flatten().to(norm.weight.device)
        spans = {reader: _span(model, site, reader) for reader in site.readers}
        replace(model, site.conv, _sliced(model.get_submodule(site.conv), 0, kept))
        replace(model, site.norm, _normalising(norm, kept))
        for reader, span in spans.items():
            columns = (kept[:, None] * span + torch.arange(span, device=kept.device)).flatten()
            replace(model, reader, _sliced(model.get_submodule(reader), 1, columns))


def _norm(model: nn.Module, site: Site) -> nn.BatchNorm2d:
    norm = model.get_submodule(site.norm)
    assert isinstance(norm, nn.BatchNorm2d)
    return norm


def _span(model: nn.Module, site: Site, reader: str) -> int:
    """Columns of a reader's weight for each channel: a linear layer may see whole maps."""
    layer: Any = model.get_submodule(reader)
    return int(layer.weight.shape[1] // _norm(model, site).num_features)


def _sliced(layer: nn.Module, side: int, kept: Tensor) -> nn.Module:
    """A convolution or linear layer with the `kept` (n,) of its outputs (side 0) or inputs (1)."""
    text, state = described(layer), dict(layer.state_dict())
    kind = "features" if isinstance(layer, nn.Linear) else "channels"
    text[f"{('out', 'in')[side]}_{kind}"] = len(kept)
    state["weight"] = state["weight"].index_select(side, kept)
    if side == 0 and "bias" in state:
        state["bias"] = state["bias"][kept]
    with torch.device("meta"):
        smaller = built(text)
    smaller.load_state_dict(state, assign=True)
    return smaller


def _normalising(norm: nn.BatchNorm2d, kept: Tensor) -> nn.Module:
    """A BatchNorm with the `kept` (n,) channels, its activation behind it where it brings one."""
    smaller = nn.BatchNorm2d(len(kept), norm.eps, norm.momentum)
    state = norm.state_dict()
    smaller.load_state_dict({key: one[kept] if one.dim() else one for key, one in state.items()})
    return nn.Sequential(smaller, *norm.children()) if any(norm.children()) else smaller
