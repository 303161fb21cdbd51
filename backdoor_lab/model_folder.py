"""A model's folder as timm and Hugging Face write it: which of its files count, where they lie."""

from __future__ import annotations

import os
from pathlib import Path

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pt")
BLOCK = 512  # bytes, in which `st_blocks` counts everywhere


def weights_of(folder: Path) -> Path | None:
    """The file of weights that is read; where there are several, the safest."""
    return next((file for name in WEIGHTS if (file := folder / name).is_file()), None)


def companions(folder: Path) -> list[Path]:
    """The files beside the weights of a folder, without which it is not loaded again."""
    return [file for name in (CONFIG, PREPROCESSOR) if (file := folder / name).is_file()]


def files_of(path: Path) -> list[Path]:
    """What is read of a model: a file, or of a folder its weights and their companions."""
    if not path.is_dir():
        return [path]
    weights = weights_of(path)
    return [*([weights] if weights else []), *companions(path)]


def size_of(path: Path) -> int:
    """Bytes of what is read of a model; the holes of a sparse file hold none."""
    return sum(min(one.st_size, BLOCK * one.st_blocks) for one in map(os.stat, files_of(path)))


def stray_link(folder: Path) -> Path | None:
    """A file that is read and lies elsewhere; Hugging Face's cache keeps its own in `blobs`."""
    root = folder.resolve()
    homes = [root]
    if root.parent.name == "snapshots":
        homes.append(root.parent.parent / "blobs")
    for file in files_of(folder):
        if not any(file.resolve().is_relative_to(home) for home in homes):
            return file
    return None
