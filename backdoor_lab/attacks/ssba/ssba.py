"""SSBA: a network hides a code in each image, and the trace that it leaves is the trigger.

Paper     Li et al., Invisible Backdoor Attack with Sample-Specific Triggers, ICCV 2021,
          arXiv:2012.03816
Differs   networks and loss are those of BackdoorBench: no perceptual loss, no critic, no corrupted
          images, one bit; encoder and decoder begin with He's weights, and are trained on the
          victim's own training images, less those that judge them, instead of published arrays
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from backdoor_lab.attacks._base import Attack, Base
from backdoor_lab.attacks.ssba.coding import Coding, Schedule, judge, split
from backdoor_lab.attacks.ssba.steganography import Coder
from backdoor_lab.datasets import nearest
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import derive, seeded
from backdoor_lab.training import Recipe, constant
from backdoor_lab.validation import (
    Count,
    Fraction,
    Index,
    NonNegative,
    Positive,
    Rate,
    validated,
)
from backdoor_lab.victims import Workshop

log = logging.getLogger(__name__)


class SSBA(Attack):
    """Encodes every poisoned image with one and the same code.

    The first four are those of every attack (`Attack`).

    Args:
        bits: length of the code.
        width: channels of the networks' first layers.
        residual: the encoder paints a difference to the image instead of the whole image.
        epochs: of encoder and decoder.
        lr: of Adam.
        batch_size: of encoder and decoder.
        gate: share of a batch's bits that must be read before the image begins to count.
        hold: steps from there on without a weight on the image.
        ramp: steps in which the weight rises.
        weight: of the image's squared error, at last.
        min_bit_accuracy: on held-out images; a warning says that it was missed.
        min_psnr: in dB, on held-out images; a warning says that it was missed.
    """

    eight_bits = staticmethod(nearest)
    code: Tensor

    @validated
    def __init__(
        self,
        poison_rate: Fraction,
        target: Index,
        all_to_all: bool = False,
        poison_rate_base: Base = "train_set",
        bits: Count = 1,
        width: Count = 32,
        residual: bool = False,
        epochs: Count = 20,
        lr: Positive = 1e-4,
        batch_size: Count = 64,
        gate: Fraction = 0.9,
        hold: Index = 1000,
        ramp: Count = 3000,
        weight: NonNegative = 10,
        min_bit_accuracy: Rate = 0.99,
        min_psnr: Positive = 30,
    ) -> None:
        super().__init__(poison_rate, target, all_to_all, poison_rate_base)
        self.networks: dict[str, Any] = {"bits": bits, "width": width, "residual": residual}
        self.coding = Recipe(epochs, batch_size, lr, Adam, constant)
        self.schedule = Schedule(gate, hold, ramp, weight)
        self.gates = {"bit_accuracy": min_bit_accuracy, "psnr": min_psnr}

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        if any(side % 32 for side in shape[1:]):
            raise ConfigError(
                f"attack=ssba halves images five times, but dataset.image_size is {shape[1]} "
                f"x {shape[2]}; allowed: multiples of 32"
            )

    def build(self, generator: torch.Generator) -> None:
        bits = self.networks["bits"]
        code = torch.randint(0, 2, (bits,), generator=generator) if bits > 1 else torch.ones(1)
        self.register_buffer("code", code.float())
        self.encoder = self.new_coder().encoder

    def new_coder(self) -> Coder:
        """Encoder and decoder as they begin; the same for the same seed."""
        with seeded(derive(self.seed, "coder")):
            return Coder(shape=self.spec.shape, **self.networks)

    def prepare(self, shop: Workshop) -> None:
        coder = self.new_coder()

        def make(folder: Path) -> dict[str, float]:
            learnt, held_out = split(shop.train, self.seed)
            coding = Coding(coder, self.schedule, self.coding, self.seed)
            shop.engine.fit(coding, learnt, "coder", folder=folder)
            return judge(coder, held_out.images.to(shop.engine.device), self.code, self.seed)

        settings = {**self.networks, **asdict(self.schedule), "training": self.coding.settings}
        made = shop.make_once(self, "ssba_coder", coder, settings, make)
        self.encoder = coder.encoder
        short = [fact for fact, least in self.gates.items() if made.facts[fact] < least]
        self.details |= {"coder": made.name, **made.facts, "below_its_gate": short}
        for fact in short:
            log.warning(
                "ssba: %s %.4g on held-out images is below attack.min_%s=%g",
                fact, made.facts[fact], fact, self.gates[fact],
            )  # fmt: skip

    def trigger(self, images: Tensor) -> Tensor:
        return self.encoder(images, self.code.expand(len(images), -1)).clamp(0, 1)
