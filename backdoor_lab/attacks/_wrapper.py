"""Attacks around another attack."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from backdoor_lab.attacks._base import Attack
from backdoor_lab.datasets import DataSpec, ImageSet
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe

if TYPE_CHECKING:
    from backdoor_lab.victims import Workshop


@contextmanager
def inside() -> Iterator[None]:
    """Refusals name the inner attack and its keys as they are typed."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(re.sub(r"\battack([.=])", r"attack.inner\1", str(error))) from None


class Wrapper(Attack):
    """Takes over trigger, target and labels of `inner`, and changes how the victim is trained."""

    def __init__(self, inner: Attack) -> None:
        super().__init__(inner.poison_rate, inner.target, inner.all_to_all, inner.poison_rate_base)
        self.inner = inner
        self.clean_label = inner.clean_label
        self.crosses, self.known = inner.crosses, inner.known
        self.learns_trigger = inner.learns_trigger

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        with inside():
            self.inner.check(shape, num_classes)

    def attach(self, spec: DataSpec, recipe: Recipe, seed: int) -> None:
        super().attach(spec, recipe, seed)
        with inside():
            self.inner.attach(spec, recipe, seed)

    def prepare(self, shop: Workshop) -> None:
        self.inner.prepare(shop)

    def trigger(self, images: Tensor) -> Tensor:
        return self.inner.trigger(images)

    def train_trigger(self, images: Tensor) -> Tensor:
        return self.inner.train_trigger(images)

    def stamp(self, images: Tensor) -> Tensor:
        return self.inner.stamp(images)

    def stamp_cross(self, images: Tensor) -> Tensor:
        return self.inner.stamp_cross(images)

    def choose(self, labels: Tensor) -> Tensor:
        with inside():
            return self.inner.choose(labels)

    def poison(self, train: ImageSet) -> tuple[ImageSet, Tensor]:
        return self.inner.poison(train)

    def relabel(self, labels: Tensor) -> Tensor:
        return self.inner.relabel(labels)

    def counted(self, labels: Tensor) -> Tensor:
        return self.inner.counted(labels)
