"""Unknown: no trigger is known; of one that nobody can make, images that carry it may be at hand.

Paper     -
Differs   -
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from backdoor_lab.attacks.none import NoAttack
from backdoor_lab.datasets import ImageSet
from backdoor_lab.datasets.files import Files, decode_files, files_by_class, image_files
from backdoor_lab.errors import ConfigError
from backdoor_lab.validation import Index, validated

log = logging.getLogger(__name__)
NOBODY = -1  # the true class of an image that lies in no class's folder


class Unknown(NoAttack):
    """Cannot trigger an image; without a folder, ASR and RA are undefined.

    Args:
        folder: images that carry the trigger, in sub-folders by their true class, or flat: then
            RA is undefined, and images of the target class count, too.
        target: class that they are to be taken for.
    """

    known = False

    @validated
    def __init__(self, folder: Path | None = None, target: Index = 0) -> None:
        super().__init__()
        self.folder, self.target = folder, target
        self.harmless = folder is None

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        if self.folder is not None and not self.folder.is_dir():
            raise ConfigError(
                f"attack.folder={self.folder} is no folder; allowed: null, or a folder of "
                "triggered images"
            )

    def counted(self, labels: Tensor) -> Tensor:
        if self.folder is None:
            return super().counted(labels)
        return labels != self.target

    def examples(self, test: ImageSet) -> tuple[ImageSet, Tensor]:
        """The images of the folder but those of the target class; they are of no test image."""
        nothing = torch.empty(0, dtype=torch.int64)
        if self.folder is None:
            return test.take(nothing), nothing
        files = [(file, label) for file, label in self._files(self.folder) if label != self.target]
        if not files:
            raise ConfigError(
                f"attack.folder={self.folder} holds no image that counts; allowed: images of "
                f"other classes than attack.target={self.target}"
            )
        title = "triggered images"
        images, labels = decode_files(files, self.spec.shape[1], title, "attack.folder")
        return ImageSet.of(images, labels), nothing

    def _files(self, folder: Path) -> Files:
        labelled, found = files_by_class(folder, self.spec.classes), image_files(folder)
        if labelled and len(found) > len(labelled):
            log.warning(
                "attack.folder=%s: %d of its %d images lie in no class folder and do not count",
                folder, len(found) - len(labelled), len(found),
            )  # fmt: skip
        return labelled or [(file, NOBODY) for file in found]
