"""Nothing: the defender has the classifier alone."""

from __future__ import annotations

import torch
from torch import Tensor

from backdoor_lab.aux_data._base import AuxiliaryKind
from backdoor_lab.aux_data._pool import Pool
from backdoor_lab.aux_data._set import AuxiliarySet
from backdoor_lab.datasets import Data


class NoAuxiliary(AuxiliaryKind):
    """Holds no image, whatever size is asked for."""

    holds_images = False

    def check(self, training_known: bool = True) -> None:
        """Any size will do."""

    def foresee(self, data: Data, poisoned: Tensor | None, seed: int) -> int:
        return 0

    def pool(self, data: Data, poisoned: Tensor | None, seed: int) -> Pool:
        return Pool.of(data.train.take(torch.empty(0, dtype=torch.int64)))

    def draw(self, data: Data, poisoned: Tensor | None, seed: int) -> AuxiliarySet:
        return AuxiliarySet("none", None, self.labelled)
