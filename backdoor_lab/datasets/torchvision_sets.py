"""CIFAR-10, CIFAR-100 and GTSRB through torchvision, downloaded where they are missing."""

from __future__ import annotations

import logging
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from torchvision import datasets as torchvision_datasets
from torchvision.datasets import VisionDataset
from torchvision.datasets.utils import download_and_extract_archive

from backdoor_lab.datasets._base import Dataset, RawImages
from backdoor_lab.datasets.cache import cached, cached_before, place
from backdoor_lab.datasets.files import decode
from backdoor_lab.digests import state_below
from backdoor_lab.errors import ConfigError
from backdoor_lab.store.locks import locked

log = logging.getLogger(__name__)
SIGNS = 39_209
ARCHIVE = (
    "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
    "GTSRB_Final_Training_Images.zip"
)
ARCHIVE_MD5 = "f33fd80ac59bff73c82d25ab499e03a3"


class TorchvisionSet(Dataset):
    """A data set that torchvision knows how to download and to read.

    Attributes:
        source: the folder below `root` that it is read from, as `facts.files` of its yaml.
        needed: what must lie there; where it does not, it is downloaded.
    """

    source: ClassVar[str]
    needed: ClassVar[tuple[str, ...]] = (".",)

    @abstractmethod
    def part(self, root: Path, train: bool) -> VisionDataset:
        """The official training or test images, downloaded to `root` where they are missing."""

    @abstractmethod
    def class_names(self, part: VisionDataset) -> tuple[str, ...]:
        """Names in the order of the labels."""

    def check(self) -> None:
        self.folder()

    def folder(self) -> Path:
        """The folder of the downloads.

        Raises:
            ConfigError: none was given.
        """
        if self.root is None:
            raise ConfigError("dataset.root=null; allowed: a folder that holds or gets the files")
        return self.root

    def read(self) -> RawImages:
        root = self.folder()
        source = root / self.source
        name = place(type(self).__name__.lower(), self.image_size, root)
        if not source.exists() and (images := cached_before(self.cache, name)):
            log.info("%s is gone: what was decoded from it is read", source)
            return images
        if not all((source / one).exists() for one in self.needed):
            self.cache.mkdir(parents=True, exist_ok=True)
            with locked(self.cache / f"{name}.download.lock", f"the files of {name}"):
                self._parts(root)
        key = {"files": state_below(source)}
        return cached(self.cache, name, key, lambda: self._decode(root))

    def _decode(self, root: Path) -> RawImages:
        train, test = self._parts(root)
        return RawImages(
            *decode(train.__getitem__, len(train), self.image_size, f"{self.name} train"),
            *decode(test.__getitem__, len(test), self.image_size, f"{self.name} test"),
            self.class_names(train),
        )

    def _parts(self, root: Path) -> tuple[VisionDataset, VisionDataset]:
        try:
            return self.part(root, train=True), self.part(root, train=False)
        except (RuntimeError, OSError) as error:
            raise ConfigError(
                f"dataset.root={root} does not hold all of {type(self).__name__}, and it could "
                f"not be downloaded ({error}); allowed: a folder in torchvision's layout"
            ) from error


class CIFAR10(TorchvisionSet):
    """50,000 + 10,000 photographs of 10 classes, 32 x 32."""

    source = "cifar-10-batches-py"

    def part(self, root: Path, train: bool) -> VisionDataset:
        return torchvision_datasets.CIFAR10(root, train, download=True)

    def class_names(self, part: VisionDataset) -> tuple[str, ...]:
        return tuple(part.classes)


class CIFAR100(CIFAR10):
    """50,000 + 10,000 photographs of 100 classes, 32 x 32."""

    source = "cifar-100-python"

    def part(self, root: Path, train: bool) -> VisionDataset:
        return torchvision_datasets.CIFAR100(root, train, download=True)


class GTSRB(TorchvisionSet):
    """39,209 + 12,630 traffic signs of 43 classes, of various sizes and proportions.

    torchvision would download the 26,640 training images of the first round of the competition;
    the papers have all.
    """

    source = "gtsrb"
    needed = ("GTSRB/Training", "GTSRB/Final_Test", "GT-final_test.csv")

    def read(self) -> RawImages:
        images = super().read()
        if (count := len(images.train_labels)) != SIGNS:
            log.warning(
                "dataset.root=%s holds %d training images of GTSRB, where the papers have %d; all "
                "are downloaded once its folder gtsrb/GTSRB/Training is gone",
                self.root,
                count,
                SIGNS,
            )
        return images

    def part(self, root: Path, train: bool) -> VisionDataset:
        if not train:
            return torchvision_datasets.GTSRB(root, "test", download=True)
        if not (root / "gtsrb" / "GTSRB" / "Training").is_dir():
            fetch_signs(root / "gtsrb")
        return torchvision_datasets.GTSRB(root, "train")

    def class_names(self, part: VisionDataset) -> tuple[str, ...]:
        return tuple(f"{number:05d}" for number in range(43))


def fetch_signs(folder: Path) -> None:
    """Download all training images of GTSRB to where torchvision looks for them."""
    download_and_extract_archive(ARCHIVE, str(folder), md5=ARCHIVE_MD5)
    (folder / "GTSRB" / "Final_Training" / "Images").rename(folder / "GTSRB" / "Training")
