"""A network with its normalisation, and what the configuration builds it with."""

from __future__ import annotations

import json
from typing import Any

import timm
import torch
from torch import Tensor, nn

from backdoor_lab.datasets import DataSpec
from backdoor_lab.errors import ConfigError
from backdoor_lab.models.card import Card
from backdoor_lab.models.edits import replace
from backdoor_lab.models.layers import built
from backdoor_lab.seeds import derive, seeded

SMALL = 64
MOST = 2**30
"""Weights of a model that a card may ask for."""


class Normalize(nn.Module):
    """`(x - mean) / std` per channel; both are saved with the model."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class Classifier(nn.Module):
    """Images in [0, 1] to logits: normalisation, then `net`.

    Args:
        architecture: a name that timm knows.
        spec: number of classes, shape and normalisation of the data.
        pretrained: start from the weights that timm has for it.
        small_stem: 3x3 stem without pooling for images of at most 64 pixels (ResNets).
        options: further arguments of the architecture.

    Attributes:
        edits: what `models.edits.replace` changed in the architecture, in this order.
        has_small_stem: whether it is a ResNet with the stem for small images.
    """

    def __init__(
        self,
        architecture: str,
        spec: DataSpec,
        pretrained: bool = False,
        small_stem: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.blueprint = (architecture, spec, small_stem, options or {})
        self.edits: list[dict[str, Any]] = []
        self.normalize = Normalize(spec.mean, spec.std)
        self.net: nn.Module = timm.create_model(
            architecture,
            pretrained,
            num_classes=spec.num_classes,
            in_chans=spec.shape[0],
            **(options or {}),
        )
        self.has_small_stem = small_stem and max(spec.shape[1:]) <= SMALL
        if self.has_small_stem:
            shrink_stem(self.net)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to logits (N, classes)."""
        return self.net(self.normalize(images))

    def features(self, images: Tensor) -> Tensor:
        """What the head sees of images (N, C, H, W) in [0, 1]: (N, D)."""
        seen: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.net(self.normalize(images))
        finally:
            handle.remove()
        return seen[0].flatten(1)

    @property
    def head(self) -> nn.Linear:
        """The last linear layer."""
        return [module for module in self.net.modules() if isinstance(module, nn.Linear)][-1]

    def fresh(self, seed: int = 0) -> Classifier:
        """The same architecture, edits and all, newly initialised from `seed`, on this device."""
        with seeded(derive(seed, "fresh")):
            twin = _assembled(*self.blueprint, self.edits)
        return twin.to(self.normalize.mean.device)

    def card(self) -> dict[str, Any]:
        """What this classifier is, as plain text and numbers: all but its weights."""
        architecture, spec, small_stem, options = self.blueprint
        facts = {
            "architecture": architecture,
            "classes": spec.classes,
            "shape": spec.shape,
            "mean": spec.mean,
            "std": spec.std,
            "small_stem": small_stem,
            "options": options,
            "edits": self.edits,
        }
        return Card.model_validate_json(json.dumps(facts)).model_dump(mode="json")

    @classmethod
    def of(cls, card: dict[str, Any]) -> Classifier:
        """The classifier that `card` describes; its weights are random.

        Raises:
            ValueError: `card` is none, or describes what cannot be built.
        """
        said = Card.model_validate_json(json.dumps(card))
        edits = [edit.model_dump() for edit in said.edits]
        parts = (said.architecture, said.spec, said.small_stem, said.options, edits)
        try:
            with torch.device("meta"):  # takes no memory
                weights = sum(weight.numel() for weight in _assembled(*parts).parameters())
            if weights > MOST:
                raise ValueError(f"{weights} weights; allowed: {MOST}")
            return _assembled(*parts)
        except (TypeError, RuntimeError, ConfigError) as error:
            raise ValueError(f"this card describes no model: {error}") from None


def _assembled(
    architecture: str,
    spec: DataSpec,
    small_stem: bool,
    options: dict[str, Any],
    edits: list[dict[str, Any]],
) -> Classifier:
    """A classifier with random weights, with `edits` made."""
    model = Classifier(architecture, spec, False, small_stem, options)
    for edit in edits:
        replace(model, edit["at"], built(edit["layer"]))
    return model


def shrink_stem(net: nn.Module) -> None:
    """Replace the 7x7 stride-2 stem and the pooling of a ResNet, as is usual for small images.

    Raises:
        ConfigError: `net` has no such stem.
    """
    stem = getattr(net, "conv1", None)
    if not (isinstance(stem, nn.Conv2d) and isinstance(getattr(net, "maxpool", None), nn.Module)):
        raise ConfigError(
            f"model.small_stem=true, but {type(net).__name__} has no stem of a ResNet; "
            "allowed: false"
        )
    net.conv1 = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
