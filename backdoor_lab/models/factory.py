"""What the configuration builds classifiers with."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import timm
import torch

from backdoor_lab.datasets import DataSpec
from backdoor_lab.errors import ConfigError
from backdoor_lab.models.classifier import Classifier
from backdoor_lab.seeds import derive, seeded
from backdoor_lab.validation import validated


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

    def check(self, spec: DataSpec | None = None) -> None:
        """Refuse what timm cannot build, and options that fail for images of `spec`.

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
        if self.options and spec is not None:
            with torch.device("meta"):  # shapes alone
                self._made(spec, pretrained=False)

    def build(self, spec: DataSpec, seed: int) -> Classifier:
        """A classifier for `spec`; the same seed gives the same weights, no other draw shifts.

        Raises:
            ConfigError: an option that the architecture does not have.
        """
        self.check()
        with seeded(derive(seed, "init")):
            return self._made(spec, self.pretrained)

    def _made(self, spec: DataSpec, pretrained: bool) -> Classifier:
        """A classifier of this architecture.

        Raises:
            ConfigError: an option that the architecture does not have, or cannot take.
        """
        try:
            return Classifier(self.architecture, spec, pretrained, self.small_stem, self.options)
        except (TypeError, ValueError, AttributeError, RuntimeError, ZeroDivisionError) as error:
            raise ConfigError(
                f"model.options={self.options} do not suit {self.architecture}: "
                f"{str(error).splitlines()[0]}; allowed: arguments that this architecture has"
            ) from error
