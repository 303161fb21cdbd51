"""Tiny-ImageNet-200 as its public zip unpacks: 200 classes; its validation images are the test."""

from __future__ import annotations

from pathlib import Path

from backdoor_lab.datasets._base import Dataset, RawImages
from backdoor_lab.datasets.cache import cached_files
from backdoor_lab.errors import ConfigError

FOLDER = "tiny-imagenet-200"


class TinyImageNet(Dataset):
    """100,000 + 10,000 photographs of 200 classes, 64 x 64; some are grey and become RGB."""

    def check(self) -> None:
        self.folder()

    def folder(self) -> Path:
        """The folder that the zip unpacks to.

        Raises:
            ConfigError: it is not there.
        """
        if self.root is None:
            raise ConfigError("dataset.root=null; allowed: the folder that holds " + FOLDER)
        folder = self.root / FOLDER
        needed = ("train", "wnids.txt", "val/val_annotations.txt")
        missing = [name for name in needed if not (folder / name).exists()]
        if missing:
            raise ConfigError(
                f"dataset.root={self.root}: {folder / missing[0]} is missing; allowed: a folder in "
                f"which {FOLDER}.zip (https://cs231n.stanford.edu/{FOLDER}.zip) is unpacked"
            )
        return folder

    def read(self) -> RawImages:
        folder = self.folder()
        classes = tuple(sorted((folder / "wnids.txt").read_text().split()))
        numbers = {name: number for number, name in enumerate(classes)}
        train = [
            (file, number)
            for name, number in numbers.items()
            for file in sorted((folder / "train" / name / "images").glob("*.JPEG"))
        ]
        lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
        rows = [line.split("\t") for line in lines if line]
        test = [(folder / "val" / "images" / row[0], numbers[row[1]]) for row in rows]
        return cached_files(self, folder, train, test, classes)
