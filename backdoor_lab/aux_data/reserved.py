"""Reserved: images of the same source that the victim has never seen."""

from __future__ import annotations

from torch import Tensor

from backdoor_lab.aux_data._base import AuxiliaryKind
from backdoor_lab.aux_data._pool import Pool
from backdoor_lab.datasets import Data
from backdoor_lab.errors import ConfigError, spelled


class Reserved(AuxiliaryKind):
    """Draws from the part that the split has reserved."""

    def wanted(self, data: Data) -> int:
        """All that is held, where the split has rounded the same share down in each class."""
        count, held = super().wanted(data), len(data.reserved)
        rounded = self.size is None and held < count < held + data.spec.num_classes
        return held if rounded else count

    def pool(self, data: Data, poisoned: Tensor | None, seed: int) -> Pool:
        if not len(data.reserved):
            raise ConfigError(
                f"dataset.reserved=0, or too small a share, leaves no image for "
                f"aux={spelled(self)}; allowed: a larger share"
            )
        return Pool.of(data.reserved)
