"""A network with its normalisation, and what the configuration builds it with."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import timm
import torch
from torch import Tensor, nn

from backdoor_lab.datasets import DataSpec
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import derive, seeded
from backdoor_lab.validation import validated

SMALL = 64


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
        self.blueprint = (architecture, spec, small_stem, options)
        self.normalize = Normalize(spec.mean, spec.std)
        self.net: nn.Module = timm.create_model(
            architecture,
            pretrained,
            num_classes=spec.num_classes,
            in_chans=spec.shape[0],
            **(options or {}),
        )
        if small_stem and max(spec.shape[1:]) <= SMALL:
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
        """The same architecture, newly initialised from `seed`, on the same device."""
        architecture, spec, small_stem, options = self.blueprint
        with seeded(derive(seed, "fresh")):
            twin = Classifier(architecture, spec, False, small_stem, options)
        return twin.to(self.normalize.mean.device)


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


class ModelFactory:
    """Builds classifiers of one architecture.

    Args:
        architecture: a name that timm knows, `preact_resnet18` among them.
        pretrained: start from the weights that timm has for it.
        small_stem: 3x3 stem without pooling for images of at most 64 pixels (ResNets).
        options: further arguments of the architecture.
    """

    @validated
    def __init__(
        self,
        architecture: str,
        pretrained: bool = False,
        small_stem: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.architecture = architecture
        self.pretrained = pretrained
        self.small_stem = small_stem
        self.options = options or {}

    def check(self) -> None:
        """Refuse what timm cannot build.

        Raises:
            ConfigError: names the key, what was given and what is allowed.
        """
        if not timm.is_model(self.architecture):
            near = get_close_matches(self.architecture, timm.list_models(), n=5, cutoff=0.5)
            raise ConfigError(
                f"model.architecture={self.architecture} is unknown to timm; "
                f"allowed: its names, such as {', '.join(near or ['preact_resnet18', 'resnet18'])}"
            )
        if self.pretrained and not timm.models.is_model_pretrained(self.architecture):
            raise ConfigError(
                f"model.pretrained=true, but timm has no weights of {self.architecture}; "
                "allowed: false"
            )

    def build(self, spec: DataSpec, seed: int) -> Classifier:
        """A classifier for `spec`; the same seed gives the same weights, no other draw shifts.

        Raises:
            ConfigError: an option that the architecture does not have.
        """
        self.check()
        with seeded(derive(seed, "init")):
            try:
                return Classifier(
                    self.architecture, spec, self.pretrained, self.small_stem, self.options
                )
            except TypeError as error:
                raise ConfigError(
                    f"model.options={self.options} do not suit {self.architecture}: {error}; "
                    "allowed: arguments that this architecture has"
                ) from error
