"""Batches for Lightning, cut on the device where they are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from backdoor_lab.datasets import ImageSet
from backdoor_lab.seeds import generator_for
from backdoor_lab.training.augment import Augmentation


def as_floats(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) to float in [0, 1], channels last."""
    return images.to(torch.float32, memory_format=torch.channels_last).div_(255)


class Batches:
    """An epoch of (images in [0, 1], labels) per iteration, without a copy or synchronisation.

    The order and the augmentation of epoch e follow from `seed` and e alone, so a resumed training
    sees what an uninterrupted one would have seen. A last batch of one image is dropped: batch
    normalisation cannot use it.

    Args:
        data: where it lies, batches are cut; `Streamed` below where that is not the device.
        batch_size: images a batch.
        seed: of order and augmentation.
        augment: such as crop and flip, or None.
        shuffle: whether the order is random.
        drop_last: drop an incomplete last batch.
        device: where the batches are wanted.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        seed: int = 0,
        augment: Augmentation | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.device = device or data.device
        self.epoch = 0

    @property
    def sampler(self) -> Batches:
        """Lightning tells `sampler.set_epoch` which epoch begins."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(len(self.data), self.batch_size)
        return whole + (rest > 1 and not (self.drop_last and whole > 0))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = generator_for(self.seed, f"epoch {self.epoch}", self.device)
        self.epoch += 1
        count = len(self.data)
        order = torch.arange(count, device=self.device)
        if self.shuffle:
            order = torch.randperm(count, generator=generator, device=self.device)
        parameters = self.augment.draw(count, generator) if self.augment else None
        for number, (images, labels) in enumerate(self.pieces(order)):
            if self.augment and parameters is not None:
                start = number * self.batch_size
                images = self.augment.apply(images, parameters[start : start + len(images)])
            yield as_floats(images), labels

    def pieces(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(uint8 images, labels) of each batch, in `order` (N,)."""
        for number in range(len(self)):
            positions = order[number * self.batch_size :][: self.batch_size]
            yield self.data.cut(positions), self.data.labels[positions]


class Streamed(Batches):
    """Batches of a set too large for the device: workers cut them from the memory map."""

    workers = 2

    def pieces(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        batches = order.cpu().split(self.batch_size)[: len(self)]
        loader = DataLoader(
            _Cutter(self.data),
            batch_sampler=[batch.tolist() for batch in batches],
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            collate_fn=_keep,
        )
        for images, labels in loader:
            yield (
                images.to(self.device, non_blocking=True),
                labels.to(self.device, non_blocking=True),
            )


class _Cutter(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Lets a worker cut a whole batch at once."""

    def __init__(self, data: ImageSet) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, positions: list[int]) -> tuple[Tensor, Tensor]:
        where = torch.tensor(positions)
        return self.data.cut(where), self.data.labels[where]


def _keep(batch: Any) -> Any:
    return batch


def whole(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image, a last batch of one included: evaluation drops nothing."""
    yield from batches
    rest = len(batches.data) - len(batches) * batches.batch_size
    if rest == 1:
        last = torch.tensor([len(batches.data) - 1], device=batches.data.device)
        image = batches.data.cut(last).to(batches.device)
        yield image.float().div(255), batches.data.labels[last].to(batches.device)
