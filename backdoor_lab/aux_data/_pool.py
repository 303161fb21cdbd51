"""What an auxiliary set is drawn from: labels first, images when they have been chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backdoor_lab.datasets import ImageSet, stratified, without
from backdoor_lab.errors import ConfigError


@dataclass(frozen=True)
class Pool:
    """Images that are read, or made, once they are chosen.

    Attributes:
        labels: of all images, (M,).
        read: images (n, C, H, W) uint8 at positions (n,).
    """

    labels: Tensor
    read: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, images: ImageSet) -> Pool:
        """All images of a set."""
        return cls(images.labels, images.cut)

    def __len__(self) -> int:
        return len(self.labels)


def some_classes(
    labels: Tensor, classes: int | Sequence[int] | None, draw: torch.Generator
) -> Tensor:
    """Positions of the images whose class is among `classes`; of a number, so many at random.

    Raises:
        ConfigError: there are not so many classes, or not these.
    """
    if classes is None:
        return torch.arange(len(labels))
    present = labels.unique()
    if isinstance(classes, int):
        if classes > len(present):
            raise ConfigError(f"aux.classes={classes}; allowed: 1 to {len(present)}, or a list")
        chosen = present[torch.randperm(len(present), generator=draw)[:classes]]
    else:
        chosen = torch.tensor(classes)
        if not torch.isin(chosen, present).all():
            raise ConfigError(
                f"aux.classes={list(classes)} are not all there; allowed: some of "
                f"{present.tolist()}, or a number"
            )
    return torch.isin(labels, chosen).nonzero().flatten()


def spread(labels: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Sorted positions of exactly `count` images, each class in its proportion."""
    chosen = stratified(labels, count / len(labels), draw)
    others = without(len(labels), chosen)
    more = others[torch.randperm(len(others), generator=draw)[: count - len(chosen)]]
    return torch.cat([chosen, more]).sort().values


def as_many_each(labels: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Sorted positions of `count` images of each class.

    Raises:
        ConfigError: a class has fewer.
    """
    fewest = int(labels.unique(return_counts=True)[1].min())
    if count > fewest:
        raise ConfigError(
            f"aux.per_class={count} is more than the smallest class holds; allowed: 1 to {fewest}"
        )
    chosen = [
        members[torch.randperm(len(members), generator=draw)[:count]]
        for members in ((labels == label).nonzero().flatten() for label in labels.unique())
    ]
    return torch.cat(chosen).sort().values
