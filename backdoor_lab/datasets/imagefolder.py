"""A user's own images: a folder per part, in it a folder per class."""

from __future__ import annotations

from pathlib import Path

from backdoor_lab.datasets._base import Dataset, RawImages
from backdoor_lab.datasets.cache import cached_files
from backdoor_lab.datasets.files import is_image
from backdoor_lab.errors import ConfigError

TEST_FOLDERS = ("test", "val")


class ImageFolder(Dataset):
    """`root/train/<class>/*` and `root/test/<class>/*` (or `val`), classes in sorted order."""

    def check(self) -> None:
        self.folders()

    def folders(self) -> tuple[Path, Path]:
        """The folders of the training and of the test images.

        Raises:
            ConfigError: `root` is not given, or a folder is missing.
        """
        wanted = "allowed: a folder with train/<class>/ and test/<class>/ (or val/<class>/)"
        if self.root is None:
            raise ConfigError(f"dataset.root=null; {wanted}")
        train = self.root / "train"
        tests = [self.root / name for name in TEST_FOLDERS if (self.root / name).is_dir()]
        if not train.is_dir() or not tests:
            raise ConfigError(f"dataset.root={self.root} lacks images; {wanted}")
        return train, tests[0]

    def read(self) -> RawImages:
        folders = self.folders()
        classes = self._classes(*folders)
        train, test = (_labelled(folder, classes) for folder in folders)
        for folder, files in zip(folders, (train, test), strict=True):
            _require_all(folder, files, classes)
        return cached_files(self, folders[0].parent, train, test, classes)

    def _classes(self, train: Path, test: Path) -> tuple[str, ...]:
        names, others = _folders(train), _folders(test)
        if names != others:
            odd = sorted(set(names) ^ set(others))
            raise ConfigError(
                f"dataset.root={self.root}: {', '.join(odd[:5])} is not in both {train.name} and "
                f"{test.name}; allowed: the same classes in both"
            )
        if len(names) < 2 or self.num_classes not in (None, len(names)):
            raise ConfigError(
                f"dataset.root={self.root} holds {len(names)} class folder(s) and "
                f"dataset.num_classes={self.num_classes}; allowed: two or more, "
                "and num_classes null or the same"
            )
        return names


def _folders(part: Path) -> tuple[str, ...]:
    names = (entry.name for entry in part.iterdir() if entry.is_dir())
    return tuple(sorted(name for name in names if not name.startswith(".")))


def _labelled(part: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """(file, label) of all images of `part`, sorted by class and name."""
    return [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((part / name).iterdir())
        if is_image(file)
    ]


def _require_all(part: Path, files: list[tuple[Path, int]], classes: tuple[str, ...]) -> None:
    present = {label for _, label in files}
    empty = [name for label, name in enumerate(classes) if label not in present]
    if empty:
        raise ConfigError(
            f"dataset.root: {part / empty[0]} holds no image; allowed: one or more in each class"
        )
