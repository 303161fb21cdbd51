"""What every data set offers: cached images, split into train, reserved and test."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from backdoor_lab.datasets._images import DataSpec, ImageSet, evenly, stratified, without
from backdoor_lab.seeds import generator_for
from backdoor_lab.validation import NUMBER, Count, Fraction, Index, Rate, validated

Classes = Annotated[int, NUMBER, Field(ge=2)]
Share = Annotated[float, NUMBER, Field(ge=0, lt=1)]
Part = Literal["train", "test"]
RESERVED: dict[Part, float] = {"train": 0.05, "test": 0.5}  # GIC; BCU


@dataclass(frozen=True)
class RawImages:
    """A data set as its files say: uint8 images (N, C, H, W), labels (N,), class names.

    Attributes:
        pixels: a digest of all images; None where it has not been taken yet.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    pixels: str | None = None


@dataclass(frozen=True)
class Data:
    """A loaded data set: `train` is what a victim sees, `reserved` what nobody has seen.

    Attributes:
        spec: what everybody may know.
        train: what a victim is trained on.
        reserved: kept from victims and from the test.
        test: what models are judged by.
        fingerprint: of all images, and of those that are left after limits.
        original: number of the official training images, of which `train` may be a part.
        elsewhere: images of the same classes from another source, where the data set brings some.
        held_out: share of all images that became `test`; None where that is a set of its own.
    """

    spec: DataSpec
    train: ImageSet
    reserved: ImageSet
    test: ImageSet
    fingerprint: str
    original: int
    elsewhere: ImageSet | None = None
    held_out: float | None = None

    @property
    def rests_on(self) -> dict[str, Any]:
        """What scores rest on, for a report."""
        source = "a test set of its own"
        if self.held_out is not None:
            source = f"{self.held_out:.0%} of the images, held out"
        return {"source": source, "images": len(self.test)}


class Dataset(ABC):
    """A data set: reads its images once, then splits them.

    Args:
        name: what the folders of results call it.
        image_size: side of the square images, in pixels.
        num_classes: number of classes, or None where only the files can tell.
        mean: per channel, for images in [0, 1].
        std: per channel, above 0.
        padding: of the random crop in training, in pixels.
        flip: whether training mirrors images.
        split_seed: seed of the split, the same for all seeds of a run.
        reserved: share of `reserved_from` that is kept apart; None: 0.05 of the training images,
            half of the test images.
        reserved_from: official images that the reserved ones are taken from; with `test`, victims
            see the whole training set, and models are judged by what is left of the test set.
        limit_train: at most so many training images (stratified), for quick trials.
        limit_test: at most so many test images.
        root: where the files lie.
        cache: folder of decoded images.
    """

    @validated
    def __init__(
        self,
        name: str,
        image_size: Count,
        num_classes: Classes | None,
        mean: tuple[Fraction, ...],
        std: tuple[Rate, ...],
        padding: Index,
        flip: bool,
        split_seed: int,
        reserved: Share | None,
        reserved_from: Part,
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
        self.split_seed, self.reserved_from = split_seed, reserved_from
        self.reserved = RESERVED[reserved_from] if reserved is None else reserved
        self.limit_train, self.limit_test = limit_train, limit_test
        self.root, self.cache = root, cache

    def check(self) -> None:  # noqa: B027 - most data sets have nothing to refuse
        """Refuse what cannot work, before anything is read.

        Raises:
            ConfigError: names the key, what was given and what is allowed.
        """

    def expected(self) -> DataSpec | None:
        """What can be told before the files are read; None where they must say the classes."""
        if self.num_classes is None:
            return None
        names = tuple(map(str, range(self.num_classes)))
        return self._spec(names, (len(self.mean), self.image_size, self.image_size))

    def _spec(self, classes: tuple[str, ...], shape: tuple[int, int, int]) -> DataSpec:
        facts = (self.mean, self.std, self.padding, self.flip)
        return DataSpec(self.name, classes, shape, *facts)

    @abstractmethod
    def read(self) -> RawImages:
        """The images, decoded and resized to `image_size`."""

    @property
    def held_out(self) -> float | None:
        """The share of the images that is held out as a test set; None where there is one."""
        return None

    def elsewhere(self) -> ImageSet | None:
        """Images of the same classes from another source, if the data set brings some."""
        return None

    def load(self) -> Data:
        """Read, limit and split: train, reserved and test are disjoint and stratified."""
        raw = self.read()
        train = self._limited(raw.train_images, raw.train_labels, self.limit_train, "train")
        test = self._limited(raw.test_images, raw.test_labels, self.limit_test, "test")
        parts: dict[Part, ImageSet] = {"train": train, "test": test}
        whole = parts[self.reserved_from]
        draw = generator_for(self.split_seed, "reserved")
        held = stratified(whole.labels, self.reserved, draw)
        parts[self.reserved_from] = whole.take(without(len(whole), held))
        return Data(
            self._spec(raw.classes, train.shape),
            train=parts["train"],
            reserved=whole.take(held),
            test=parts["test"],
            fingerprint=_fingerprint(raw.pixels or digest_of_pixels(raw), train, test),
            original=len(train),
            elsewhere=self.elsewhere(),
            held_out=self.held_out,
        )

    def _limited(self, images: Tensor, labels: Tensor, limit: int | None, part: str) -> ImageSet:
        images_set = ImageSet.of(images, labels)
        if limit is None or limit >= len(images_set):
            return images_set
        draw = generator_for(self.split_seed, f"limit/{part}")
        return images_set.take(stratified(images_set.labels, limit / len(images_set), draw))


def digest_of_pixels(raw: RawImages) -> str:
    """A digest of every image; reads them all."""
    digest = hashlib.sha256()
    for images in (raw.train_images, raw.test_images):
        digest.update(f"{tuple(images.shape)}".encode())
        digest.update(images.contiguous().numpy().data)
    return digest.hexdigest()


def _fingerprint(pixels: str, train: ImageSet, test: ImageSet) -> str:
    """A digest of all `pixels`, and of the labels and some images of the parts that are left."""
    digest = hashlib.sha256(pixels.encode())
    for part in (train, test):
        digest.update(part.labels.numpy().tobytes())
        digest.update(part.cut(evenly(len(part), 1000)).numpy().tobytes())
    return digest.hexdigest()[:16]
