"""External: images of the same classes from elsewhere.

Paper     GIC (Wei et al.) uses CINIC-10's ImageNet part for CIFAR-10: give its `train` folder
Differs   some data sets need no folder: those that bring such images (mnist: digits by other
          writers), and those whose classes are single characters (digits), which are printed with
          matplotlib's fonts in the grey levels of the training images
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backdoor_lab.aux_data._folder import FolderKind
from backdoor_lab.aux_data._fonts import fonts_with, printed
from backdoor_lab.aux_data._pool import Pool
from backdoor_lab.datasets import Data, DataSpec, ImageSet, evenly
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import generator_for
from backdoor_lab.validation import Count, validated


class External(FolderKind):
    """Draws from a folder of the user's, from what the data set brings, or from printed characters.

    Args:
        folder: class folders of images; None: what the data set brings; else the classes printed,
            if they are characters.
        exclude: files whose name contains this are left out.
        versions: printed images of each character in each font.
        cells: printed characters have so many cells a side before they are enlarged.
        options: what every kind takes.
    """

    key = "paths.external"

    @validated
    def __init__(
        self,
        folder: Path | None,
        exclude: str | None,
        versions: Count,
        cells: Count,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.folder, self.exclude = folder, exclude
        self.versions, self.cells = versions, cells

    def made(self, data: Data, poisoned: Tensor | None, seed: int) -> Pool:
        if data.elsewhere is not None:
            return Pool.of(data.elsewhere)
        names = self._characters(data.spec)

        def read(chosen: Tensor) -> Tensor:
            draw = generator_for(seed, "printed")
            return like(data.train, printed(names, self.versions, self.cells, draw)[chosen])

        each = torch.arange(len(names)).repeat_interleave(self.versions)
        return Pool(each.repeat(len(fonts_with(names))), read)

    def _characters(self, spec: DataSpec) -> tuple[str, ...]:
        """The classes, which can be printed only where each is one character."""
        if not all(len(name) == 1 and name.isprintable() for name in spec.classes):
            raise ConfigError(
                f"{self.key}=null, but the classes of {spec.name} are no characters to print; "
                "allowed: a folder with a sub-folder of images for each class"
            )
        return spec.classes


def like(train: ImageSet, ink: Tensor) -> Tensor:
    """Ink (N, h, w) in [0, 1] as uint8 images in the shape and the grey levels of `train`.

    Of the 1st and 99th percentile of the pixels, paper is the one nearer to the median.
    """
    some = train.cut(evenly(len(train), 1000))
    low, middle, high = np.percentile(some.numpy(), [1, 50, 99])
    paper, full = sorted((low, high), key=lambda level: abs(level - middle))
    channels, height, width = train.shape
    levels = (paper + (full - paper) * ink).round().to(torch.uint8)[:, None]
    return F.interpolate(levels, size=(height, width), mode="nearest").repeat(1, channels, 1, 1)
