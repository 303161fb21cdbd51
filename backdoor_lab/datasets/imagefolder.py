"""A user's own images: a folder per class, in a folder per part where they are split already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backdoor_lab.datasets._base import Dataset, RawImages
from backdoor_lab.datasets._images import without
from backdoor_lab.datasets.cache import cached_files
from backdoor_lab.datasets.files import is_image
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import generator_for
from backdoor_lab.validation import validated

TRAIN, TESTS = "train", ("test", "val")
HELD_OUT = 0.2
Labelled = list[tuple[Path, int]]


class ImageFolder(Dataset):
    """`root/train/<class>/*` and `root/test/<class>/*` (or `val`), classes in sorted order.

    Of `root/<class>/*` a fifth of each class becomes the test set.

    Args:
        classes: the names of the class folders in another order.
        options: what every data set takes.
    """

    @validated
    def __init__(self, classes: list[str] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.classes = classes

    def check(self) -> None:
        self.folders()

    @property
    def held_out(self) -> float | None:
        return HELD_OUT if len(self.folders()) == 1 else None

    def folders(self) -> list[Path]:
        """The folders of the training and of the test images; one folder where none is split.

        Raises:
            ConfigError: `root` is not given, or a folder is missing.
        """
        wanted = "allowed: a folder with train/<class>/ and test/<class>/ (or val), or <class>/"
        if self.root is None:
            raise ConfigError(f"dataset.root=null; {wanted}")
        found = [name for name in (TRAIN, *TESTS) if (self.root / name).is_dir()]
        if not found and self.root.is_dir():
            return [self.root]
        if found[:1] != [TRAIN] or len(found) < 2:
            raise ConfigError(f"dataset.root={self.root} lacks images; {wanted}")
        return [self.root / name for name in found[:2]]

    def read(self) -> RawImages:
        folders = self.folders()
        classes = self._classes(folders)
        parts = [_labelled(folder, classes) for folder in folders]
        for folder, files in zip(folders, parts, strict=True):
            _require_all(folder, files, classes)
        train, test = parts if len(parts) == 2 else self._split(parts[0])
        root = folders[0].parent if len(parts) == 2 else folders[0]
        return cached_files(self, root, train, test, classes)

    def _split(self, files: Labelled) -> tuple[Labelled, Labelled]:
        labels = torch.tensor([label for _, label in files])
        held = held_out(labels, HELD_OUT, generator_for(self.split_seed, "held out"))
        rest = without(len(files), held)
        return [files[one] for one in rest.tolist()], [files[one] for one in held.tolist()]

    def _classes(self, folders: list[Path]) -> tuple[str, ...]:
        names = _folders(folders[0])
        if odd := sorted(set(names) ^ set(_folders(folders[-1]))):
            raise ConfigError(
                f"dataset.root={self.root}: {', '.join(odd[:5])} is not in both "
                f"{' and '.join(folder.name for folder in folders)}; allowed: the same classes in "
                "both"
            )
        if len(names) < 2 or self.num_classes not in (None, len(names)):
            raise ConfigError(
                f"dataset.root={self.root} holds {len(names)} class folder(s) and "
                f"dataset.num_classes={self.num_classes}; allowed: two or more, "
                "and num_classes null or the same"
            )
        if self.classes is None:
            return names
        if sorted(self.classes) != list(names):
            odd = sorted(set(names) ^ set(self.classes))
            raise ConfigError(
                f"dataset.classes={self.classes} are not the folders of dataset.root={self.root} "
                f"({', '.join(odd[:5]) or 'one stands there twice'}); allowed: each of them once"
            )
        return tuple(self.classes)


def held_out(labels: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """Sorted positions of a share of each class among `labels` (N,), rounded.

    Of each class one image at least is chosen, and one at least is not.
    """
    chosen = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        count = min(max(1, round(share * len(members))), len(members) - 1)
        chosen.append(members[torch.randperm(len(members), generator=draw)[:count]])
    return torch.cat(chosen).sort().values


def _folders(part: Path) -> tuple[str, ...]:
    names = (entry.name for entry in part.iterdir() if entry.is_dir())
    return tuple(sorted(name for name in names if not name.startswith(".")))


def _labelled(part: Path, classes: tuple[str, ...]) -> Labelled:
    """(file, label) of all images of `part`, sorted by class and name."""
    return [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((part / name).iterdir())
        if is_image(file)
    ]


def _require_all(part: Path, files: Labelled, classes: tuple[str, ...]) -> None:
    present = {label for _, label in files}
    empty = [name for label, name in enumerate(classes) if label not in present]
    if empty:
        raise ConfigError(
            f"dataset.root: {part / empty[0]} holds no image; allowed: one or more in each class"
        )
