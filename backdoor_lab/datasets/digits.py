"""Handwritten digits that scikit-learn ships: 1,797 real images of 8x8, grey on grey.

Source    UCI "Optical Recognition of Handwritten Digits", its test part (sklearn.load_digits)
Differs   no official split: a fifth is the test set; enlarged by nearest neighbour and drawn in
          grey, since on black, additive triggers are cut off and the task is far too easy
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from backdoor_lab.datasets._grey import GreyDigits

FULL_INK = 16


class Digits(GreyDigits):
    """Digits whose 8x8 cells show."""

    def written(self) -> tuple[Tensor, Tensor]:
        ink, labels = optical_digits()
        return F.interpolate(ink[:, None], size=self.image_size, mode="nearest")[:, 0], labels


def optical_digits() -> tuple[Tensor, Tensor]:
    """Ink (1797, 8, 8) in [0, 1], and digits (1797,)."""
    digits = load_digits()
    return torch.from_numpy(digits.images).float() / FULL_INK, torch.from_numpy(digits.target)
