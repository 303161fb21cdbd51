"""Seen: clean images that the victim was trained on.

Paper     the usual setting of purification; told apart from the others by GIC (section 5)
Differs   GIC leaves poisoned images out, which takes most of the target class away where an attack
          poisons no other; by default their clean originals are drawn as the others are, as in
          BackdoorBench's code; aux.poisoned=left_out does as GIC says, and means nothing where the
          attack poisons inside the training (wanet, input_aware, bpp, lira)
"""

from __future__ import annotations

from torch import Tensor

from backdoor_lab.aux_data._base import AuxiliaryKind
from backdoor_lab.aux_data._left_out import unpoisoned
from backdoor_lab.aux_data._pool import Pool
from backdoor_lab.datasets import Data


class Seen(AuxiliaryKind):
    """Draws from the training images in their clean form."""

    needs_training = True

    def pool(self, data: Data, poisoned: Tensor | None, seed: int) -> Pool:
        train = data.train
        return Pool.of(train if self.poisoned == "originals" else unpoisoned(data, poisoned))
