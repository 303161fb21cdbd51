"""Reserved: images of the same source that the victim has never seen."""

from __future__ import annotations

from torch import Tensor

from backdoor_lab.aux_data._base import AuxiliaryKind
from backdoor_lab.datasets import Data, ImageSet


class Reserved(AuxiliaryKind):
    """Draws from the part that the split has reserved."""

    def pool(self, data: Data, poisoned: Tensor, seed: int) -> ImageSet:
        return data.reserved
