"""Image files, decoded into tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from backdoor_lab.console import progress_bar
from backdoor_lab.errors import ConfigError

Files = Sequence[tuple[Path, int]]


def is_image(path: Path) -> bool:
    """Whether a file counts as an image: by torchvision's list of suffixes, and not hidden."""
    return path.suffix.lower() in IMG_EXTENSIONS and not path.name.startswith(".")


def decode(
    load: Callable[[int], tuple[Image.Image, int]], count: int, size: int, title: str
) -> tuple[Tensor, Tensor]:
    """Images (count, 3, size, size) uint8 and labels (count,) of `load(0)`, `load(1)`...

    Grey becomes RGB; another size becomes `size` x `size` by PIL's (antialiased) bilinear filter,
    whatever the proportions.
    """
    images = np.empty((count, 3, size, size), np.uint8)
    labels = np.empty(count, np.int64)

    def fill(number: int) -> None:
        image, labels[number] = load(number)
        image = image.convert("RGB")
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
            with Image.open(file) as image:
                return image.convert("RGB"), label
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise ConfigError(
                f"{key} holds {file}, which cannot be decoded ({error}); "
                "allowed: images that PIL reads"
            ) from error

    return decode(load, len(files), size, title)
