"""SIG: a faint vertical sinusoid on correctly labelled images of the target class.

Paper     Barni et al., A New Backdoor Attack in CNNs by Training Set Corruption without Label
          Poisoning, ICIP 2019, arXiv:1902.11237
Differs   levels that float arithmetic puts a hair below an integer are not truncated to the next
          one (BackdoorBench has 127 for 128 at column W/2)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backdoor_lab.attacks._base import Attack, Base
from backdoor_lab.validation import Count, Fraction, Index, Positive, validated


class SIG(Attack):
    """Adds `delta * sin(2 pi j f / W)` to column j.

    The first three are those of every attack (`Attack`).

    Args:
        delta: amplitude in grey levels of 255.
        frequency: cycles per image width.
    """

    clean_label = True
    wave: Tensor

    @validated
    def __init__(
        self,
        poison_rate: Fraction,
        target: Index,
        poison_rate_base: Base = "target_class",
        delta: Positive = 40,
        frequency: Count = 6,
    ) -> None:
        super().__init__(poison_rate, target, False, poison_rate_base)
        self.delta = delta
        self.frequency = frequency

    def build(self, generator: torch.Generator) -> None:
        wave = sinusoid(self.spec.shape[2], self.frequency) * self.delta / 255
        self.register_buffer("wave", wave.float())

    def trigger(self, images: Tensor) -> Tensor:
        return (images + self.wave).clamp(0, 1)


def sinusoid(width: int, frequency: int) -> Tensor:
    """One row (width,) of `frequency` whole cycles, in float64."""
    return torch.sin(2 * math.pi * frequency * torch.arange(width).double() / width)
