"""Handwritten digits that scikit-learn ships: 1,797 real images of 8x8, grey on grey.

Source    UCI "Optical Recognition of Handwritten Digits", its test part (sklearn.load_digits)
Differs   no official split: a fifth is the test set; enlarged by nearest neighbour and drawn in
          grey, since on black, additive triggers are cut off and the task is far too easy
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from backdoor_lab.datasets._base import Dataset, RawImages
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import derive
from backdoor_lab.validation import Fraction, validated

TEST_SHARE = 0.2
FULL_INK = 16


class Digits(Dataset):
    """Digits 0 to 9 that work without a download.

    Args:
        paper: grey level of the background, in [0, 1].
        ink: what full ink adds to it.
        options: what every data set takes.
    """

    @validated
    def __init__(self, paper: Fraction, ink: Fraction, **options: Any) -> None:
        super().__init__(**options)
        if paper + ink > 1:
            raise ConfigError(
                f"dataset.paper={paper} and dataset.ink={ink} exceed white; allowed: a sum up to 1"
            )
        self.paper, self.ink = paper, ink

    def read(self) -> RawImages:
        digits = load_digits()
        ink = torch.from_numpy(digits.images).float() / FULL_INK
        images = enlarge(self.paper + self.ink * ink, self.image_size)
        labels = torch.from_numpy(digits.target).long()
        train, test = train_test_split(
            np.arange(len(labels)),
            test_size=TEST_SHARE,
            stratify=digits.target,
            random_state=derive(self.split_seed, "test") % 2**32,
        )
        classes = tuple(str(name) for name in digits.target_names)
        return RawImages(images[train], labels[train], images[test], labels[test], classes)


def enlarge(levels: Tensor, size: int) -> Tensor:
    """Grey levels (N, h, w) in [0, 1] to uint8 images (N, 3, size, size), nearest neighbour."""
    grey = (levels * 255).round().to(torch.uint8)
    return F.interpolate(grey[:, None], size=(size, size), mode="nearest").repeat(1, 3, 1, 1)
