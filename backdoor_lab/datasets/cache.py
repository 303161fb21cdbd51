"""Decoded images, saved once and read as memory maps ever after."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from backdoor_lab.datasets._base import Dataset, RawImages
from backdoor_lab.datasets.files import Files, decode_files
from backdoor_lab.errors import ConfigError

log = logging.getLogger(__name__)

ARRAYS = tuple(field.name for field in fields(RawImages) if field.name != "classes")
INDEX = "index.json"


def cached(cache_folder: Path, key: dict[str, Any], build: Callable[[], RawImages]) -> RawImages:
    """What `build` returns, kept in `cache_folder` as long as `key` stays the same.

    Arrays are copy-on-write memory maps. A cache that is damaged or of another key is built anew;
    a build appears under its name only when it is whole.
    """
    cache_folder.parent.mkdir(parents=True, exist_ok=True)
    key = json.loads(json.dumps(key))
    with FileLock(f"{cache_folder}.lock"):
        if cache_folder.exists():
            fault = _fault(cache_folder, key)
            if fault is None:
                return _read(cache_folder)
            log.warning("cache %s is built anew: %s", cache_folder, fault)
        _write(cache_folder, key, build())
        return _read(cache_folder)


def _fault(folder: Path, key: dict[str, Any]) -> str | None:
    """Why the cache in `folder` cannot serve, if so."""
    try:
        index = json.loads((folder / INDEX).read_text())
        changed = [name for name in key | index["key"] if index["key"].get(name) != key.get(name)]
        if changed:
            return f"outdated ({', '.join(changed)} changed)"
        for name in ARRAYS:
            if _facts(folder / f"{name}.npy") != index["arrays"][name]:
                return f"{name}.npy is damaged"
        if not isinstance(index["classes"], list):
            return f"{INDEX} is damaged"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"damaged ({type(error).__name__}: {error})"
    return None


def _facts(file: Path) -> dict[str, Any]:
    """Shape, bytes and digest of a saved array."""
    shape = list(np.load(file, mmap_mode="r", allow_pickle=False).shape)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"shape": shape, "bytes": file.stat().st_size, "sha256": digest}


def _read(folder: Path) -> RawImages:
    arrays = {
        name: torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False))
        for name in ARRAYS
    }
    classes = tuple(json.loads((folder / INDEX).read_text())["classes"])
    return RawImages(**arrays, classes=classes)


def _write(folder: Path, key: dict[str, Any], raw: RawImages) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name in ARRAYS:
        np.save(partial / f"{name}.npy", getattr(raw, name).numpy(), allow_pickle=False)
    index = {
        "key": key,
        "classes": raw.classes,
        "arrays": {name: _facts(partial / f"{name}.npy") for name in ARRAYS},
    }
    (partial / INDEX).write_text(json.dumps(index, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def place(cache: Path, name: str, image_size: int, root: Path) -> Path:
    """The folder in `cache` of a data set read from `root`."""
    digest = hashlib.sha256(str(root.absolute()).encode()).hexdigest()
    return cache / f"{name}_{image_size}_{digest[:8]}"


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
    return cached(place(dataset.cache, name, size, root), key, build)


def _state(files: Files) -> str:
    """A digest of names, sizes, times and labels of `files`: another one means other images."""
    digest = hashlib.sha256()
    for file, label in files:
        try:
            facts = file.stat()
        except OSError as error:
            raise ConfigError(f"dataset.root lacks {file} ({error}); allowed: all files") from error
        digest.update(f"{file}\0{facts.st_size}\0{facts.st_mtime_ns}\0{label}\n".encode())
    return digest.hexdigest()
