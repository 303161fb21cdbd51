"""Folders of images that a user supplies."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from backdoor_lab.aux_data._base import AuxiliaryKind
from backdoor_lab.aux_data._pool import Pool
from backdoor_lab.aux_data._set import AuxiliarySet
from backdoor_lab.datasets import Data, DataSpec
from backdoor_lab.datasets.files import (
    Files,
    check_folder,
    decode_files,
    files_by_class,
    image_files,
)
from backdoor_lab.errors import ConfigError

log = logging.getLogger(__name__)


class FolderKind(AuxiliaryKind):
    """Draws from a folder of the user's; without one, from images that it makes.

    Labelled images lie in sub-folders named like the classes of the data set, in any case.

    Attributes:
        key: what the folder is called in the config.
        folder: of images, or None.
        exclude: files whose name contains this are left out.
    """

    key: ClassVar[str]
    folder: Path | None
    exclude: str | None = None

    @abstractmethod
    def made(self, data: Data, poisoned: Tensor | None, seed: int) -> Pool:
        """As `pool`, where there is no folder."""

    def check(self, training_known: bool = True) -> None:
        super().check(training_known)
        if self.folder is None:
            return
        check_folder(self.folder, self.key)
        if self.by_folder and not any(path.is_dir() for path in self.folder.iterdir()):
            raise ConfigError(
                f"aux.classes={self.classes} and aux.per_class={self.per_class}, but "
                f"{self.key}={self.folder} has no sub-folder to tell them by; allowed: null, null"
            )

    @property
    def by_folder(self) -> bool:
        """Whether unlabelled images are drawn by the folders that they lie in, whatever those are.

        It is how diverse they are that is varied (BCU, Figure 5); the defender is told no label.
        """
        return not self.labelled and bool(self.classes or self.per_class)

    def pool(self, data: Data, poisoned: Tensor | None, seed: int) -> Pool:
        if self.folder is None:
            return self.made(data, poisoned, seed)
        files = self._files(self.folder, data.spec)
        if self.labelled:
            self.details = {"missing": missing_classes(files, data.spec)}
        size, title = data.spec.shape[1], f"images of {self.key}"

        def read(chosen: Tensor) -> Tensor:
            return decode_files([files[one] for one in chosen.tolist()], size, title, self.key)[0]

        return Pool(torch.tensor([label for _, label in files]), read)

    def draw(self, data: Data, poisoned: Tensor | None, seed: int) -> AuxiliarySet:
        drawn = super().draw(data, poisoned, seed)
        if missing := drawn.details.get("missing"):
            log.warning(
                "%s holds no images of %d of %d classes: %s",
                self.folder,
                len(missing),
                data.spec.num_classes,
                _some(missing),
            )
        return drawn

    def _files(self, folder: Path, spec: DataSpec) -> Files:
        check_folder(folder, self.key)
        if self.labelled:
            return labelled_files(folder, spec, self.key, self.exclude)
        if self.by_folder:
            return foldered_files(folder, self.key, self.exclude)
        return unlabelled_files(folder, self.key, self.exclude)


def labelled_files(folder: Path, spec: DataSpec, key: str, exclude: str | None) -> Files:
    """Images of the sub-folders that are named like classes, class by class.

    Raises:
        ConfigError: there are none.
    """
    files = files_by_class(folder, spec.classes, exclude)
    if not files:
        found = sorted(path.name.lower() for path in folder.iterdir() if path.is_dir())
        raise ConfigError(
            f"{key}={folder} holds images of no class: its folders are {_some(found)}; "
            f"allowed: folders named like the classes of {spec.name}, {_some(spec.classes)}"
        )
    return files


def foldered_files(folder: Path, key: str, exclude: str | None) -> Files:
    """All images of the sub-folders, those of each with a label of their own.

    Raises:
        ConfigError: there are none.
    """
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    each = [image_files(path, exclude) for path in folders]
    kept = [files for files in each if files]
    if not kept:
        raise ConfigError(f"{key}={folder} holds no image; allowed: a folder of images")
    return [(file, label) for label, files in enumerate(kept) for file in files]


def unlabelled_files(folder: Path, key: str, exclude: str | None) -> Files:
    """All images below `folder`, flat or nested, with label 0.

    Raises:
        ConfigError: there are none.
    """
    files = [(file, 0) for file in image_files(folder, exclude)]
    if not files:
        raise ConfigError(f"{key}={folder} holds no image; allowed: a folder of images")
    return files


def missing_classes(files: Files, spec: DataSpec) -> list[str]:
    """The classes of which `files` has no image."""
    present = {label for _, label in files}
    return [name for label, name in enumerate(spec.classes) if label not in present]


def _some(names: Iterable[str], most: int = 10) -> str:
    """Up to `most` of `names`, for a message."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "none") + more
