"""Decoded images, saved once and read as memory maps ever after."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backdoor_lab.datasets._base import Dataset, RawImages, digest_of_pixels
from backdoor_lab.datasets.files import Files, decode_files
from backdoor_lab.errors import ConfigError
from backdoor_lab.store import Store

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
FACTS = "facts.json"


def cached(
    cache: Path, name: str, key: dict[str, Any], build: Callable[[], RawImages]
) -> RawImages:
    """What `build` returns, kept below `cache` as long as `key` stays the same.

    Arrays are copy-on-write memory maps. What was built under `name` from another key goes.
    """

    def save(folder: Path) -> None:
        raw = build()
        for array in ARRAYS:
            np.save(folder / f"{array}.npy", getattr(raw, array).numpy(), allow_pickle=False)
        facts = {"classes": raw.classes, "pixels": digest_of_pixels(raw)}
        (folder / FACTS).write_text(json.dumps(facts))

    folder, _ = Store(cache).make_once(name, key, save, replaces=True)
    return _kept(folder)


def cached_before(cache: Path, name: str) -> RawImages | None:
    """What was built under `name` last, from whichever key."""
    folder = Store(cache).newest(name)
    return _kept(folder) if folder else None


def _kept(folder: Path) -> RawImages:
    arrays = {
        array: np.load(folder / f"{array}.npy", mmap_mode="c", allow_pickle=False)
        for array in ARRAYS
    }
    tensors = {array: torch.from_numpy(values) for array, values in arrays.items()}
    facts = json.loads((folder / FACTS).read_text())
    return RawImages(**tensors, classes=tuple(facts["classes"]), pixels=facts["pixels"])


def place(name: str, image_size: int, root: Path) -> str:
    """What a data set read from `root` is called in the cache."""
    digest = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()
    return f"{name}_{image_size}_{digest[:8]}"


def cached_files(
    dataset: Dataset, root: Path, train: Files, test: Files, classes: tuple[str, ...]
) -> RawImages:
    """`train` and `test` decoded at the size of `dataset`; anew when a file below `root` changed.

    Raises:
        ConfigError: a file is missing, or no image that PIL can read.
    """
    size, name = dataset.image_size, dataset.name

    def build() -> RawImages:
        return RawImages(
            *decode_files(train, size, f"{name} train", "dataset.root"),
            *decode_files(test, size, f"{name} test", "dataset.root"),
            classes,
        )

    key = {"image_size": size, "classes": classes, "files": _state([*train, *test])}
    return cached(dataset.cache, place(name, size, root), key, build)


def _state(files: Files) -> str:
    """A digest of names, sizes, times and labels of `files`: another one, other images."""
    digest = hashlib.sha256()
    for file, label in files:
        try:
            facts = file.stat()
        except OSError as error:
            raise ConfigError(f"dataset.root lacks {file} ({error}); allowed: all files") from error
        line = f"{file}\0{facts.st_size}\0{facts.st_mtime_ns}\0{label}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()
