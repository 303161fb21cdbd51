"""How SSBA's encoder and decoder are trained, and judged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from backdoor_lab.attacks.ssba.steganography import Coder
from backdoor_lab.datasets import ImageSet, nearest
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import Recipe, Supervised


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
        self.generator = generator_for(self.seed, f"ssba {self.current_epoch}", self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, _ = batch
        codes = random_codes(len(images), self.bits, self.generator)
        with torch.autocast(images.device.type, enabled=False):  # bf16 rounds the code away
            encoded, logits = self.model(images, codes)
            passed = (self.since >= 0) | (accuracy(logits, codes) > self.schedule.gate)
            self.since += passed
            image_loss = F.mse_loss(encoded, images)
            code_loss = F.binary_cross_entropy_with_logits(logits, codes)
            return self.schedule.at(self.since) * image_loss + code_loss


def random_codes(count: int, bits: int, generator: torch.Generator) -> Tensor:
    """Codes (count, bits) of fair bits, as floats where `generator` lies."""
    return torch.randint(0, 2, (count, bits), generator=generator, device=generator.device).float()


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
