"""Seen: clean images that the victim was trained on.

Paper     the usual setting of purification; told apart from the others by GIC (section 5)
Differs   GIC leaves poisoned images out, which takes most of the target class away where an attack
          poisons no other; by default their clean originals are drawn as the others are, as in
          BackdoorBench's code; aux.poisoned=left_out does as GIC says
"""

from __future__ import annotations

import logging

from torch import Tensor

from backdoor_lab.aux_data._base import AuxiliaryKind
from backdoor_lab.aux_data._pool import Pool
from backdoor_lab.datasets import Data, ImageSet, without

log = logging.getLogger(__name__)


class Seen(AuxiliaryKind):
    """Draws from the training images in their clean form."""

    needs_training = True

    def pool(self, data: Data, poisoned: Tensor | None, seed: int) -> Pool:
        train = data.train
        return Pool.of(train if self.poisoned == "originals" else unpoisoned(data, poisoned))


def unpoisoned(data: Data, poisoned: Tensor | None) -> ImageSet:
    """The training images but those at positions `poisoned` (P,); says which classes suffer."""
    if poisoned is None:
        raise ValueError("which images are poisoned is not known")
    kept = data.train.take(without(len(data.train), poisoned))
    shares = [
        part.labels.bincount(minlength=data.spec.num_classes) / max(len(part), 1)
        for part in (kept, data.train)
    ]
    if len(scarce := (shares[0] < shares[1] / 2).nonzero().flatten()):
        names = ", ".join(data.spec.classes[label] for label in scarce.tolist())
        log.warning("aux.poisoned=left_out keeps less than half of the share of class %s", names)
    return kept
