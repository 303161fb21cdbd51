"""Images that somebody suspects: inputs of a deployed model, or what it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backdoor_lab.datasets import DataSpec, evenly
from backdoor_lab.datasets.files import check_folder, decode_files, image_files
from backdoor_lab.detectors._base import Detector
from backdoor_lab.errors import ConfigError, spelled

KEY = "paths.suspected"


@dataclass(frozen=True)
class Suspected:
    """Images of a folder.

    Attributes:
        images: uint8 (M, C, H, W).
        files: their names below the folder.
        labels: (M,), classes whose names their sub-folders have; None of a flat folder.
    """

    images: Tensor
    files: list[str]
    labels: Tensor | None


class SuspectedDetector(Detector):
    """Looks at images that are suspected; without a folder of them it does not apply.

    Attributes:
        folder: of these images, or None.
    """

    folder: Path | None = None

    def lacks(self, has_images: bool, labelled: bool) -> str | None:
        if self.folder is None:
            return f"{spelled(self)} looks at suspected images, and {KEY}=null names no folder"
        return super().lacks(has_images, labelled)

    def check_values(self) -> None:
        if self.folder is not None:
            check_folder(self.folder, KEY)

    def suspected(self, most: int) -> Suspected:
        """Up to `most` of the images, spread over the folder."""
        assert self.folder is not None
        return read_suspected(self.folder, self.spec, most)


def read_suspected(folder: Path, spec: DataSpec, most: int) -> Suspected:
    """Up to `most` images below `folder`; labels where all lie in folders named like classes.

    Raises:
        ConfigError: there are none.
    """
    files = image_files(folder, None)
    if not files:
        raise ConfigError(f"{KEY}={folder} holds no image; allowed: a folder of images")
    files = [files[one] for one in evenly(len(files), most).tolist()]
    known = {name.lower(): label for label, name in enumerate(spec.classes)}
    labels = [known.get(file.relative_to(folder).parts[0].lower(), -1) for file in files]
    pairs = list(zip(files, labels, strict=True))
    images, found = decode_files(pairs, spec.shape[1], "suspected images", KEY)
    names = [str(file.relative_to(folder)) for file in files]
    return Suspected(images, names, torch.as_tensor(found) if min(labels) >= 0 else None)
