"""A victim's triggered images as files, for use outside."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torchvision.io import write_png

from backdoor_lab.attacks import Attack
from backdoor_lab.datasets import ImageSet
from backdoor_lab.errors import ConfigError, spelled
from backdoor_lab.evaluation.examination import Examination
from backdoor_lab.validation import validated
from backdoor_lab.victims import Victim, Workshop

Columns = dict[str, Tensor]
Writer = Callable[[Path, Tensor, Columns], None]


class PoisonedImages:
    """Writes `test` (triggered test images that count) and `train` (poisoned training images).

    Beside the images lie `index` (position in the test set or the training split), `label` (true
    class) and `wanted` (the class that the attacker gave or wants).

    Args:
        format: `npz` (images (N, H, W, C) uint8) or `png` (files, and a table `labels.csv`).

    Attributes:
        task: by which it is written.
    """

    task = "export"

    @validated
    def __init__(self, format: Literal["npz", "png"] = "npz") -> None:
        writers: dict[str, Writer] = {"npz": write_npz, "png": write_pngs}
        self.write_part = writers[format]

    def check(self, attack: Attack) -> None:
        """Refuse what has no triggered images."""
        if attack.harmless or not attack.known:
            raise ConfigError(
                f"export=poisoned, but attack={spelled(attack)} has no triggered images to give; "
                "allowed: any other attack"
            )

    def write(self, folder: Path, shop: Workshop, victim: Victim) -> None:
        """Write both parts below `folder`; a part without images is left out.

        Raises:
            ConfigError: nobody knows the victim's trigger.
        """
        if victim.attack is None:
            raise ConfigError("export=poisoned, but the trigger of this victim is not known")
        victim.attack.prepare(shop)  # a victim found in the store brings its trigger alone
        folder.mkdir(parents=True, exist_ok=True)
        data, exam = shop.data, Examination.of(shop.data, victim.attack)
        test = {"index": exam.counted, "label": exam.triggered.labels, "wanted": exam.wanted}
        self._part(folder / "test", exam.triggered, test)
        poisoned, chosen = victim.attack.poison(data.train)
        train = {
            "index": chosen,
            "label": data.train.labels[chosen],
            "wanted": poisoned.labels[chosen],
        }
        self._part(folder / "train", poisoned.take(chosen), train)

    def _part(self, path: Path, images: ImageSet, columns: Columns) -> None:
        if len(images):
            self.write_part(path, images.images, columns)


def write_npz(path: Path, images: Tensor, columns: Columns) -> None:
    """`<path>.npz` with `images` (N, H, W, C) and a vector a column."""
    arrays: dict[str, Any] = {name: column.numpy() for name, column in columns.items()}
    pixels = images.permute(0, 2, 3, 1).numpy()
    np.savez_compressed(path.with_suffix(".npz"), images=pixels, **arrays)


def write_pngs(path: Path, images: Tensor, columns: Columns) -> None:
    """`<path>/000000.png` and so on, named by index, and `<path>/labels.csv`."""
    path.mkdir(exist_ok=True)
    rows = list(zip(*(column.tolist() for column in columns.values()), strict=True))
    names = [f"{row[0]:06d}.png" for row in rows]
    for name, image in zip(names, images, strict=True):
        write_png(image, str(path / name))
    with (path / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", *columns])
        writer.writerows([name, *row] for name, row in zip(names, rows, strict=True))
