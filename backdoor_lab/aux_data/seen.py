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

    needs_training = True

    def most(self, data: Data) -> int:
        return len(data.train)

    def pool(self, data: Data, poisoned: Tensor | None, seed: int) -> ImageSet:
        return unpoisoned(data.train, poisoned)


def unpoisoned(train: ImageSet, poisoned: Tensor | None) -> ImageSet:
    """`train` without its images at positions `poisoned` (P,)."""
    if poisoned is None:
        raise ValueError("which images are poisoned is not known")
    return train.take(without(len(train), poisoned))
