"""Folder: the images that somebody holds beside a model from elsewhere.

Paper     -
Differs   -
"""

from __future__ import annotations

from torch import Tensor

from backdoor_lab.aux_data._base import AuxiliaryKind
from backdoor_lab.aux_data._pool import Pool
from backdoor_lab.datasets import Data
from backdoor_lab.errors import ConfigError


class Folder(AuxiliaryKind):
    """Draws from the data set's training part, which the victim was not trained on here."""

    def check(self, training_known: bool = True) -> None:
        super().check(training_known)
        if training_known:
            raise ConfigError(
                "aux=folder draws the images beside an imported model, but this victim is trained "
                "on them; allowed: victim=imported, or aux=seen"
            )

    def pool(self, data: Data, poisoned: Tensor | None, seed: int) -> Pool:
        return Pool.of(data.train)
