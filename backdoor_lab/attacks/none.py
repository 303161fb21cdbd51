"""None: clean training, the baseline that every victim is compared with.

Paper     -
Differs   -
"""

from __future__ import annotations

import torch
from torch import Tensor

from backdoor_lab.attacks._base import Attack


class NoAttack(Attack):
    """Poisons nothing; its ASR and RA are undefined."""

    harmless = True

    def __init__(self) -> None:
        super().__init__(poison_rate=0, target=0)

    def trigger(self, images: Tensor) -> Tensor:
        return images

    def choose(self, labels: Tensor) -> Tensor:
        return torch.empty(0, dtype=torch.int64)

    def counted(self, labels: Tensor) -> Tensor:
        return torch.zeros_like(labels, dtype=torch.bool)
