"""Image files, decoded into tensors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from backdoor_lab.console import progress_bar
from backdoor_lab.digests import files_below
from backdoor_lab.errors import ConfigError

Files = Sequence[tuple[Path, int]]
UNREADABLE = (
    UnidentifiedImageError, OSError, SyntaxError, ValueError, MemoryError,
    Image.DecompressionBombWarning, Image.DecompressionBombError,
)  # fmt: skip


def is_image(path: Path) -> bool:
    """Whether a file counts as an image: by torchvision's list of suffixes, and not hidden."""
    return path.suffix.lower() in IMG_EXTENSIONS and not path.name.startswith(".")


def check_folder(folder: Path, key: str) -> None:
    """Refuse a folder that is not there."""
    if not folder.is_dir():
        raise ConfigError(f"{key}={folder} is no folder; allowed: a folder of images")


def image_files(folder: Path, exclude: str | None = None) -> list[Path]:
    """Image files below `folder`, behind links too, without those whose name has `exclude`."""
    return [
        path
        for path in files_below(folder)
        if is_image(path)
        and not (exclude and exclude in path.name)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def files_by_class(folder: Path, classes: Sequence[str], exclude: str | None = None) -> Files:
    """Images of the sub-folders that are named like classes, in any case, class by class."""
    folders = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return [
        (file, label)
        for label, name in enumerate(classes)
        if name.lower() in folders
        for file in image_files(folders[name.lower()], exclude)
    ]


def decode(
    load: Callable[[int], tuple[Image.Image, int]], count: int, size: int, title: str
) -> tuple[Tensor, Tensor]:
    """Images (count, 3, size, size) uint8 and labels (count,) of `load(0)`, `load(1)`...

    Another size becomes `size` x `size` by PIL's (antialiased) bilinear filter,
    whatever the proportions.
    """
    images = np.empty((count, 3, size, size), np.uint8)
    labels = np.empty(count, np.int64)

    def fill(number: int) -> None:
        image, labels[number] = load(number)
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        images[number] = np.asarray(image).transpose(2, 0, 1)

    with ThreadPoolExecutor(os.cpu_count()) as pool, progress_bar() as bar:
        for _ in bar.track(pool.map(fill, range(count)), total=count, description=title):
            pass
    return torch.from_numpy(images), torch.from_numpy(labels)


def decode_files(files: Files, size: int, title: str, key: str) -> tuple[Tensor, Tensor]:
    """As `decode`, for pairs of an image file and its label.

    Raises:
        ConfigError: PIL cannot read a file; names it and `key`, which the user gave.
    """

    def load(number: int) -> tuple[Image.Image, int]:
        file, label = files[number]
        try:
            if not file.is_file():  # a pipe would be waited for
                raise OSError("no regular file")
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file) as image:
                    return upright_rgb(image), label
        except UNREADABLE as error:
            raise ConfigError(
                f"{key} holds {printable(file)}, which cannot be decoded ({error}); "
                "allowed: images that PIL reads"
            ) from error

    return decode(load, len(files), size, title)


def upright_rgb(image: Image.Image) -> Image.Image:
    """RGB, turned as its EXIF says; 16-bit grey is scaled to 8 bits, which PIL would cut off."""
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):
        levels = np.asarray(turned).astype(np.int64) >> 8
        turned = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    return turned.convert("RGB")


def printable(file: Path) -> str:
    """A path as text that any terminal takes; bytes that are no UTF-8 are escaped."""
    return os.fsencode(file).decode(errors="backslashreplace")
