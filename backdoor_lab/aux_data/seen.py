"""Seen: clean images that the victim was trained on.

Paper     the usual setting of purification; told apart from the others by GIC (section 5)
Differs   never contains a poisoned image nor its clean original, as the paper says; the code of
          Effective-Residual draws the clean originals of poisoned images too
"""

from __future__ import annotations

from torch import Tensor

from backdoor_lab.aux_data._base import AuxiliaryKind
from backdoor_lab.datasets import Data, ImageSet, without


class Seen(AuxiliaryKind):
    """Draws from the unpoisoned training images."""

    def most(self, data: Data) -> int:
        return len(data.train)

    def pool(self, data: Data, poisoned: Tensor, seed: int) -> ImageSet:
        return unpoisoned(data.train, poisoned)


def unpoisoned(train: ImageSet, poisoned: Tensor) -> ImageSet:
    """`train` without its images at positions `poisoned` (P,)."""
    return train.take(without(len(train), poisoned))
