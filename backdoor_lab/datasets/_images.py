"""Labelled images as tensors: the one currency between data, attacks, defenses and metrics."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class DataSpec:
    """What everybody may know of a data set: class names, shape, normalisation, augmentation.

    `shape` is (C, H, W); `mean` and `std` are per channel for images in [0, 1]; `padding` (pixels)
    and `flip` describe the random crop and the horizontal flip of training.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int
    flip: bool

    @property
    def num_classes(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class ImageSet:
    """N labelled images: rows of a `uint8` store, of which some may be painted over.

    The store (M, C, H, W) may be a memory-mapped file and is never copied or changed: a subset is a
    choice of `rows` (N,), and poisoned images lie in `paint` (P, C, H, W), where `painted` (N,)
    holds their number, or -1 where the store's own image counts. `labels` is (N,) int64.
    """

    store: Tensor
    labels: Tensor
    rows: Tensor
    paint: Tensor | None = None
    painted: Tensor | None = None

    @classmethod
    def of(cls, images: Tensor, labels: Tensor) -> ImageSet:
        """All of `images` (N, C, H, W) uint8 with `labels` (N,)."""
        if images.dtype != torch.uint8 or len(images) != len(labels):
            raise ValueError(f"{len(images)} {images.dtype} images, {len(labels)} labels")
        return cls(images, labels.long(), torch.arange(len(labels)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.store.shape[1:])  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @property
    def nbytes(self) -> int:
        """What the whole set takes in memory."""
        return len(self) * self.store[0].numel()

    def cut(self, positions: Tensor) -> Tensor:
        """Images (n, C, H, W) uint8 at `positions` (n,) of this set; no synchronisation."""
        images = self.store[self.rows[positions]]
        if self.paint is None or self.painted is None:
            return images
        number = self.painted[positions]
        return torch.where((number >= 0).view(-1, 1, 1, 1), self.paint[number.clamp(min=0)], images)

    @property
    def images(self) -> Tensor:
        """All images (N, C, H, W) uint8, gathered."""
        return self.cut(torch.arange(len(self), device=self.device))

    def take(self, positions: Tensor) -> ImageSet:
        """The subset at `positions` (n,), in that order."""
        painted = None if self.painted is None else self.painted[positions]
        return replace(
            self, labels=self.labels[positions], rows=self.rows[positions], painted=painted
        )

    def overwrite(self, positions: Tensor, images: Tensor, labels: Tensor) -> ImageSet:
        """The same set with other `images` (n, C, H, W) uint8 and `labels` (n,) at `positions`."""
        if self.paint is not None:
            raise ValueError("this set is painted already")
        painted = torch.full((len(self),), -1, dtype=torch.int64)
        painted[positions] = torch.arange(len(positions))
        changed = self.labels.clone()
        changed[positions] = labels
        paint = images if len(images) else None
        return replace(self, labels=changed, paint=paint, painted=painted)

    def to(self, device: torch.device) -> ImageSet:
        """This set on `device`, gathered there into a store of its own."""
        if self.device == device:
            return self
        return ImageSet(
            self.images.to(device),
            self.labels.to(device),
            torch.arange(len(self), device=device),
        )


def stratified(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Sorted positions of `int(share * n_c)` random images of each class c; `labels` (N,)."""
    chosen = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)
        chosen.append(members[order[: int(share * len(members) + 1e-9)]])
    return torch.cat(chosen).sort().values


def without(count: int, positions: Tensor) -> Tensor:
    """Of the positions 0 to `count - 1`, those that are not in `positions` (P,), in order."""
    left = torch.ones(count, dtype=torch.bool)
    left[positions] = False
    return left.nonzero().flatten()


def evenly(count: int, most: int) -> Tensor:
    """Up to `most` of the positions 0 to `count - 1`, spread evenly from the first to the last."""
    return torch.linspace(0, count - 1, min(count, most)).long()


def truncate(levels: Tensor) -> Tensor:
    """Float grey levels to 8 bits toward zero, as the reference code does.

    A level within 1/1000 below an integer counts as that integer: float arithmetic on [0, 1] lands
    there by rounding errors alone.
    """
    return (levels + 1e-3).floor().clamp(0, 255).to(torch.uint8)


def nearest(levels: Tensor) -> Tensor:
    """Float grey levels to the nearest 8-bit level."""
    return levels.round().clamp(0, 255).to(torch.uint8)


def in_eight_bits(images: Tensor) -> Tensor:
    """Images in [0, 1] rounded to multiples of 1/255."""
    return images.mul(255).round_().div_(255)
