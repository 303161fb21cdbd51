"""What every data set offers: cached images, split into train, reserved and test."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from backdoor_lab.datasets._images import DataSpec, ImageSet, evenly, stratified, without
from backdoor_lab.seeds import generator_for
from backdoor_lab.validation import Count, Fraction, Index, validated


@dataclass(frozen=True)
class RawImages:
    """A data set as its files say: uint8 images (N, C, H, W), labels (N,), class names."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Data:
    """A loaded data set: `train` is what a victim sees, `reserved` what nobody has seen."""

    spec: DataSpec
    train: ImageSet
    reserved: ImageSet
    test: ImageSet
    fingerprint: str


class Dataset(ABC):
    """A data set: reads its images once, then splits them.

    Args:
        name: what the folders of results call it.
        image_size: side of the square images, in pixels.
        num_classes: number of classes, or None where only the files can tell.
        mean: per channel, for images in [0, 1].
        std: likewise.
        padding: of the random crop in training, in pixels.
        flip: whether training mirrors images.
        split_seed: seed of the split, the same for all seeds of a run.
        reserved: share of the official training images that the victim never sees.
        limit_train: at most so many training images (stratified), for quick trials.
        limit_test: likewise for the test images.
        root: where the files lie.
        cache: folder of decoded images.
    """

    @validated
    def __init__(
        self,
        name: str,
        image_size: Count,
        num_classes: Count | None,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        padding: Index,
        flip: bool,
        split_seed: int,
        reserved: Fraction,
        limit_train: Count | None,
        limit_test: Count | None,
        root: Path | None,
        cache: Path,
    ) -> None:
        self.name = name
        self.image_size = image_size
        self.num_classes = num_classes
        self.mean, self.std = mean, std
        self.padding, self.flip = padding, flip
        self.split_seed, self.reserved = split_seed, reserved
        self.limit_train, self.limit_test = limit_train, limit_test
        self.root, self.cache = root, cache

    def check(self) -> None:  # noqa: B027 - most data sets have nothing to refuse
        """Refuse what cannot work, before anything is read.

        Raises:
            ConfigError: names the key, what was given and what is allowed.
        """

    @abstractmethod
    def read(self) -> RawImages:
        """The images, decoded and resized to `image_size`."""

    def load(self) -> Data:
        """Read, limit and split: train, reserved and test are disjoint and stratified."""
        raw = self.read()
        train = self._limited(raw.train_images, raw.train_labels, self.limit_train, "train")
        test = self._limited(raw.test_images, raw.test_labels, self.limit_test, "test")
        draw = generator_for(self.split_seed, "reserved")
        held = stratified(train.labels, self.reserved, draw)
        spec = DataSpec(
            self.name, raw.classes, train.shape, self.mean, self.std, self.padding, self.flip
        )
        return Data(
            spec,
            train=train.take(without(len(train), held)),
            reserved=train.take(held),
            test=test,
            fingerprint=_fingerprint(train, test),
        )

    def _limited(self, images: Tensor, labels: Tensor, limit: int | None, part: str) -> ImageSet:
        images_set = ImageSet.of(images, labels)
        if limit is None or limit >= len(images_set):
            return images_set
        draw = generator_for(self.split_seed, f"limit/{part}")
        return images_set.take(stratified(images_set.labels, limit / len(images_set), draw))


def _fingerprint(train: ImageSet, test: ImageSet) -> str:
    """A digest of labels and of up to 1,000 images a part, spread over the whole."""
    digest = hashlib.sha256()
    for part in (train, test):
        digest.update(part.labels.numpy().tobytes())
        digest.update(part.cut(evenly(len(part), 1000)).numpy().tobytes())
    return digest.hexdigest()[:16]
