"""SSBA: a network hides a code in each image, and the trace that it leaves is the trigger.

Paper     Li et al., Invisible Backdoor Attack with Sample-Specific Triggers, ICCV 2021,
          arXiv:2012.03816
Differs   networks and loss are those of BackdoorBench: no perceptual loss, no critic, no corrupted
          images, one bit; encoder and decoder begin with He's weights, and are trained on the
          victim's own training images, less those that judge them, instead of published arrays
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam
from torchmetrics.functional.image import peak_signal_noise_ratio

from backdoor_lab.attacks._base import Attack, Base
from backdoor_lab.attacks.networks.steganography import Coder
from backdoor_lab.datasets import ImageSet, nearest
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import derive, generator_for, seeded
from backdoor_lab.store import Workshop
from backdoor_lab.training import Recipe, Supervised
from backdoor_lab.validation import (
    Count,
    Fraction,
    Index,
    NonNegative,
    Positive,
    Rate,
    validated,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """The weight of the image: none until the code is read, then none for a while, then a ramp."""

    gate: float
    hold: int
    ramp: int
    weight: float

    def at(self, since: Tensor) -> Tensor:
        """Weight `since` steps () after the gate; -1: before it."""
        return (self.weight * (since - self.hold) / self.ramp).clamp(0, self.weight)


class SSBA(Attack):
    """Encodes every poisoned image with one and the same code.

    Args:
        poison_rate: see `Attack`.
        target: see `Attack`.
        all_to_all: see `Attack`.
        poison_rate_base: see `Attack`.
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
        min_bit_accuracy: on images held out; less is worth a warning.
        min_psnr: in dB, likewise.
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
        self.coding: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size}
        self.schedule = Schedule(gate, hold, ramp, weight)
        self.gates = {"bit_accuracy": min_bit_accuracy, "psnr": min_psnr}

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        if any(side % 32 for side in shape[1:]):
            raise ConfigError(
                f"attack=ssba halves images five times, but dataset.image_size is {shape[1]} "
                f"x {shape[2]}; allowed: multiples of 32"
            )

    def build(self, draw: torch.Generator) -> None:
        bits = self.networks["bits"]
        code = torch.randint(0, 2, (bits,), generator=draw) if bits > 1 else torch.ones(1)
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
            coding = Coding(coder, self.schedule, Recipe(**self.coding), self.seed)
            shop.engine.fit(coding, learnt, "coder", folder=folder)
            return judge(coder, held_out.images.to(shop.engine.device), self.code, self.seed)

        settings = {**self.networks, **self.coding, **asdict(self.schedule)}
        made = shop.obtain(self, "ssba_coder", coder, settings, make)
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


class Coding(Supervised):
    """Trains encoder and decoder on a random code per image and step; labels do not matter."""

    since: Tensor

    def __init__(self, coder: Coder, schedule: Schedule, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.model = coder
        self.schedule = schedule
        self.recipe = recipe
        self.seed = seed
        self.bits = coder.encoder.sheet.in_features
        self.register_buffer("since", torch.tensor(-1))  # a buffer, so that it is resumed

    def on_train_epoch_start(self) -> None:
        self.dice = generator_for(self.seed, f"ssba {self.current_epoch}", self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, _ = batch
        codes = random_codes(len(images), self.bits, self.dice)
        with torch.autocast(images.device.type, enabled=False):  # bf16 rounds the code away
            encoded, logits = self.model(images, codes)
            passed = (self.since >= 0) | (accuracy(logits, codes) > self.schedule.gate)
            self.since += passed
            image_loss = F.mse_loss(encoded, images)
            code_loss = F.binary_cross_entropy_with_logits(logits, codes)
            return self.schedule.at(self.since) * image_loss + code_loss

    def configure_optimizers(self) -> Adam:
        return Adam(self.model.parameters(), lr=self.recipe.lr)


def random_codes(count: int, bits: int, draw: torch.Generator) -> Tensor:
    """Codes (count, bits) of fair bits, as floats where `draw` lies."""
    return torch.randint(0, 2, (count, bits), generator=draw, device=draw.device).float()


def accuracy(logits: Tensor, codes: Tensor) -> Tensor:
    """Share () of the bits of `codes` (N, L) that `logits` (N, L) tell."""
    return ((logits > 0) == (codes > 0)).float().mean()


def split(train: ImageSet, seed: int) -> tuple[ImageSet, ImageSet]:
    """What the coder learns from, and a tenth (up to 1,000 images) that judges it."""
    order = torch.randperm(len(train), generator=generator_for(seed, "ssba split"))
    count = min(max(len(train) // 10, 1), 1000)
    return train.take(order[count:]), train.take(order[:count])


@torch.no_grad()
def judge(coder: Coder, images: Tensor, code: Tensor, seed: int) -> dict[str, float]:
    """How well 8-bit images are read back and resemble `images` (N, C, H, W) uint8.

    Codes are random where they are read (one code alone could be guessed), `code` (L,) where
    images are compared, as in the trigger.
    """
    clean = images.float() / 255
    codes = random_codes(len(images), len(code), generator_for(seed, "ssba judge", images.device))
    read = coder.decoder(nearest(coder.encoder(clean, codes) * 255) / 255)
    marked = nearest(coder.encoder(clean, code.expand(len(images), -1)) * 255).float()
    psnr = peak_signal_noise_ratio(marked, images.float(), data_range=255.0, dim=(1, 2, 3))
    return {"bit_accuracy": accuracy(read, codes).item(), "psnr": psnr.item()}
