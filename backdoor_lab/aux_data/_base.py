"""What a defender may hold: a kind of images, drawn to a size, labelled or not.

All kinds draw the same share of each class, topped up at random to the very size that is asked;
GIC rounds down within each class (CIFAR-10: 2,370 of 2,375), and BackdoorBench draws from all
images at once, for FT-SAM and NPD as many of each class (`aux.per_class`). Unlabelled images are
drawn by their classes as well, which no defender sees.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from backdoor_lab.aux_data._left_out import warn_of_loss
from backdoor_lab.aux_data._pool import Pool, as_many_each, some_classes, spread
from backdoor_lab.aux_data._set import AuxiliarySet
from backdoor_lab.datasets import Data, ImageSet
from backdoor_lab.errors import ConfigError, spelled
from backdoor_lab.seeds import derive, generator_for
from backdoor_lab.validation import Count, Index, Rate, validated

Some = Count | Annotated[tuple[Index, ...], Field(min_length=1)]


class AuxiliaryKind(ABC):
    """Draws an auxiliary set of one kind.

    Args:
        ratio: size as a share of what `ratio_base` names, in (0, 1].
        ratio_base: the victim's training split, or the original training set.
        per_class: images of each class; wins over `ratio`.
        size: number of images; wins over both.
        classes: so many classes of the pool, or these; None: all.
        labelled: whether the defender knows the labels.
        poisoned: whether the clean originals of poisoned training images may be drawn.
        seed: of the draw; None: the defender's.

    Attributes:
        holds_images: whether there are any images.
        needs_training: draws on what the victim was trained on.
    """

    holds_images = True
    needs_training = False

    @validated
    def __init__(
        self,
        ratio: Rate | None = None,
        size: Count | None = None,
        labelled: bool = True,
        ratio_base: Literal["split", "original"] = "split",
        per_class: Count | None = None,
        classes: Some | None = None,
        poisoned: Literal["originals", "left_out"] = "originals",
        seed: int | None = None,
    ) -> None:
        self.ratio, self.ratio_base = ratio, ratio_base
        self.size, self.per_class = size, per_class
        self.classes = classes
        self.labelled = labelled
        self.poisoned = poisoned
        self.seed = seed
        self.details: dict[str, Any] = {}

    @abstractmethod
    def pool(self, data: Data, poisoned: Tensor | None, seed: int) -> Pool:
        """All images of this kind, from which `draw` takes some; none is read or made yet.

        Args:
            data: the loaded data set; its test part is not for defenders.
            poisoned: positions (P,) of poisoned images in `data.train`; None where nobody knows
                what the victim was trained on.
            seed: of whatever is drawn here.

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
        if self.ratio is None and self.size is None and self.per_class is None:
            raise ConfigError(
                "aux.ratio=null, aux.per_class=null and aux.size=null; allowed: one of them is set"
            )
        if self.needs_training and not training_known:
            raise ConfigError(
                f"aux={spelled(self)} draws on the victim's training images, which are not known "
                "of this victim; allowed: folder, reserved, brightness, external, none"
            )

    def foresee(self, data: Data, poisoned: Tensor | None, seed: int) -> int:
        """How many images a `draw` of the same will give; nothing is read.

        Raises:
            ConfigError: names the key, what was given and what is allowed.
        """
        seed = self._root(seed)
        pool = self.pool(data, poisoned, seed)
        return len(self._choose(data, pool, seed))

    def draw(self, data: Data, poisoned: Tensor | None, seed: int) -> AuxiliarySet:
        """The auxiliary set, the same share of each class of the pool.

        Args:
            data: the loaded data set.
            poisoned: as for `pool`.
            seed: the defender's.

        Raises:
            ConfigError: the pool is too small, or nothing is left of it.
        """
        if self.needs_training and self.poisoned == "left_out" and poisoned is not None:
            warn_of_loss(data, poisoned)
        seed = self._root(seed)
        pool = self.pool(data, poisoned, seed)
        chosen = self._choose(data, pool, seed)
        labels = pool.labels[chosen]
        counts = labels.bincount(minlength=data.spec.num_classes).tolist()
        details = {
            **self.details, "size": len(chosen), "per_class": counts if self.labelled else None
        }  # fmt: skip
        known = labels if self.labelled else torch.zeros_like(labels)
        images = ImageSet.of(pool.read(chosen), known)
        return AuxiliarySet(spelled(self), images, self.labelled, details)

    def wanted(self, data: Data) -> int:
        """The number of images that `size` or `ratio` ask for.

        Raises:
            ConfigError: less than one.
        """
        base = data.original if self.ratio_base == "original" else len(data.train)
        count = self.size or round((self.ratio or 0) * base)
        if count < 1:
            raise ConfigError(f"aux.ratio={self.ratio} means {count} images; allowed: 1 or more")
        return count

    def _root(self, seed: int) -> int:
        """The root of all draws: from it, nobody learns the seed of the victim."""
        return derive(seed if self.seed is None else self.seed, "aux")

    def _choose(self, data: Data, pool: Pool, seed: int) -> Tensor:
        """Sorted positions of the images that are drawn."""
        among = some_classes(pool.labels, self.classes, generator_for(seed, "classes"))
        labels, draw = pool.labels[among], generator_for(seed, "auxiliary")
        if self.per_class and not self.size:
            return among[as_many_each(labels, self.per_class, draw)]
        count = self.wanted(data)
        if count > len(among):
            raise ConfigError(
                f"aux.size={self.size}, aux.ratio={self.ratio} mean {count} image(s); "
                f"allowed: 1 to {len(among)}, what this kind holds"
            )
        return among[spread(labels, count, draw)]
