"""Folders of images that a user supplies."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backdoor_lab.datasets import DataSpec, ImageSet
from backdoor_lab.errors import ConfigError

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"})


def check_folder(folder: Path | None, key: str) -> None:
    """Refuse a folder that is given but not there."""
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"{key}={folder} is no folder; allowed: a folder of images")


def labelled_folder(
    folder: Path, spec: DataSpec, key: str, exclude: str | None = None
) -> tuple[ImageSet, list[str]]:
    """Images of the sub-folders named like classes of the data set, in any case.

    Returns:
        The images, and the classes that the folder does not hold (also logged).

    Raises:
        ConfigError: no sub-folder is named like a class.
    """
    folders = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    files = {name: image_files(folders.get(name.lower()), exclude) for name in spec.classes}
    missing = [name for name, found in files.items() if not found]
    if len(missing) == len(spec.classes):
        raise ConfigError(
            f"{key}={folder} holds images of no class: its folders are {_some(folders)}; "
            f"allowed: folders named like the classes of {spec.name}, {_some(spec.classes)}"
        )
    if missing:
        logging.getLogger(__name__).warning(
            "%s holds no images of %d of %d classes: %s",
            folder,
            len(missing),
            len(spec.classes),
            _some(missing),
        )
    counts = torch.tensor([len(files[name]) for name in spec.classes])
    labels = torch.arange(len(spec.classes)).repeat_interleave(counts)
    paths = [path for name in spec.classes for path in files[name]]
    return ImageSet.of(read_images(paths, spec.shape), labels), missing


def unlabelled_folder(
    folder: Path, spec: DataSpec, key: str, exclude: str | None = None
) -> ImageSet:
    """All images below `folder`, flat or nested, with label 0."""
    files = image_files(folder, exclude)
    if not files:
        raise ConfigError(
            f"{key}={folder} holds no image; allowed: files {', '.join(sorted(SUFFIXES))}"
        )
    return ImageSet.of(read_images(files, spec.shape), torch.zeros(len(files)))


def image_files(folder: Path | None, exclude: str | None = None) -> list[Path]:
    """Image files below `folder`, sorted, without those whose name contains `exclude`."""
    if folder is None:
        return []
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and not (exclude and exclude in path.name)
    ]


def read_images(paths: list[Path], shape: tuple[int, int, int]) -> Tensor:
    """Files as uint8 images (N, *shape), resized bilinearly."""
    channels, height, width = shape
    images = torch.empty(len(paths), *shape, dtype=torch.uint8)
    for number, path in enumerate(paths):
        with Image.open(path) as opened:
            image = opened.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).view(height, width, channels)
        images[number] = pixels.permute(2, 0, 1)
    return images


def _some(names: Iterable[str], most: int = 10) -> str:
    """Up to `most` of `names`, for a message."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "none") + more
