"""What a defender may hold: a kind of images, drawn to a size, labelled or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backdoor_lab.datasets import Data, ImageSet, stratified, without
from backdoor_lab.errors import ConfigError, spelled
from backdoor_lab.seeds import generator_for
from backdoor_lab.validation import Count, Rate, validated


@dataclass(frozen=True)
class AuxiliarySet:
    """The defender's images; `labelled` says whether their labels may be read.

    `images` is None where the defender holds nothing. Of an unlabelled set all labels are 0.
    """

    kind: str
    images: ImageSet | None
    labelled: bool
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> ImageSet:
        """The images.

        Raises:
            ConfigError: there are none.
        """
        if self.images is None:
            raise ConfigError("aux=none holds no images; allowed: any other aux")
        return self.images

    @property
    def labelled_data(self) -> ImageSet:
        """The images, for those who read the labels.

        Raises:
            ConfigError: the labels are not known.
        """
        if not self.labelled:
            raise ConfigError("aux.labelled=false, but labels were asked for; allowed: true")
        return self.data


class AuxiliaryKind(ABC):
    """Draws an auxiliary set of one kind.

    Args:
        ratio: size as a share of the victim's training split, in (0, 1].
        size: number of images; wins over `ratio`.
        labelled: whether the defender knows the labels.

    Attributes:
        holds_images: whether there are any images.
        needs_training: draws on what the victim was trained on.
    """

    holds_images = True
    needs_training = False

    @validated
    def __init__(
        self, ratio: Rate | None = None, size: Count | None = None, labelled: bool = True
    ) -> None:
        self.ratio = ratio
        self.size = size
        self.labelled = labelled
        self.details: dict[str, Any] = {}

    @abstractmethod
    def pool(self, data: Data, poisoned: Tensor | None, seed: int) -> ImageSet:
        """All images of this kind, from which `draw` takes some.

        Args:
            data: the loaded data set; its test part is not for defenders.
            poisoned: positions (P,) of poisoned images in `data.train`, to be left out; None where
                nobody knows what the victim was trained on.
            seed: of whatever is drawn here.
        """

    @abstractmethod
    def most(self, data: Data) -> int | None:
        """How many images there are at most; None: as many as are asked for.

        Cheap: files are counted but not read, and nothing is made.

        Raises:
            ConfigError: there are none.
        """

    def check(self, training_known: bool = True) -> None:
        """Refuse what cannot work, before any data is read.

        Args:
            training_known: whether it is known what the victim was trained on.

        Raises:
            ConfigError: names the key, what was given and what is allowed.
        """
        if self.ratio is None and self.size is None:
            raise ConfigError("aux.ratio=null and aux.size=null; allowed: one of them is set")
        if self.needs_training and not training_known:
            raise ConfigError(
                f"aux={spelled(self)} draws on the victim's training images, which are not known "
                "of this victim; allowed: reserved, brightness, external, none"
            )

    def foresee(self, data: Data) -> None:
        """Refuse, before anything trains, what the data cannot give.

        Raises:
            ConfigError: names the key, what was given and what is allowed.
        """
        self._wanted(data, self.most(data))

    def draw(self, data: Data, poisoned: Tensor | None, seed: int) -> AuxiliarySet:
        """The auxiliary set, the same share of each class of the pool.

        Raises:
            ConfigError: the pool is too small, or nothing is left of it.
        """
        pool = self.pool(data, poisoned, seed)
        wanted = self._wanted(data, len(pool))
        chosen = spread(pool.labels, wanted, generator_for(seed, "auxiliary"))
        images = pool.take(chosen)
        if not self.labelled:
            images = ImageSet.of(images.images, torch.zeros_like(images.labels))
        counts = pool.labels[chosen].bincount(minlength=data.spec.num_classes).tolist()
        details = {**self.details, "size": wanted, "per_class": counts if self.labelled else None}
        return AuxiliarySet(spelled(self), images, self.labelled, details)

    def _wanted(self, data: Data, most: int | None) -> int:
        """The number of images asked for, where `most` are there."""
        wanted = self.size or round((self.ratio or 0) * len(data.train))
        if wanted < 1 or (most is not None and wanted > most):
            allowed = "1 or more" if most is None else f"1 to {most}, what this kind holds"
            raise ConfigError(
                f"aux.size={self.size}, aux.ratio={self.ratio} mean {wanted} image(s); "
                f"allowed: {allowed}"
            )
        return wanted


def spread(labels: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Sorted positions of exactly `count` images, each class in its proportion."""
    chosen = stratified(labels, count / len(labels), draw)
    others = without(len(labels), chosen)
    more = others[torch.randperm(len(others), generator=draw)[: count - len(chosen)]]
    return torch.cat([chosen, more]).sort().values
