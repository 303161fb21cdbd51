"""Seen: clean images that the victim was trained on.

Paper     the usual setting of purification; told apart from the others by "001" (section 5)
Differs   never contains a poisoned image nor its clean original, as the paper says; the code of
          Effective-Residual draws the clean originals of poisoned images too
"""

from __future__ import annotations

import torch
from torch import Tensor

from backdoor_lab.aux_data._base import AuxiliaryKind
from backdoor_lab.datasets import Data, ImageSet


class Seen(AuxiliaryKind):
    """Draws from the unpoisoned training images."""

    def pool(self, data: Data, poisoned: Tensor, seed: int) -> ImageSet:
        return unpoisoned(data.train, poisoned)


def unpoisoned(train: ImageSet, poisoned: Tensor) -> ImageSet:
    """`train` without its images at positions `poisoned` (P,)."""
    clean = torch.ones(len(train), dtype=torch.bool)
    clean[poisoned] = False
    return train.take(clean.nonzero().flatten())
