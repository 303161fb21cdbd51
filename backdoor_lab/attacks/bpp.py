"""BppAttack: fewer grey levels, learnt beside residues of quantisation that mean nothing.

Paper     Wang, Zhai and Ma, BppAttack: Stealthy and Efficient Trojan Attacks against Deep Neural
          Networks via Image Quantization and Contrastive Adversarial Learning, CVPR 2022,
          arXiv:2205.13383
Differs   a negative bears the residue of the next image of its own shuffled batch, not of one from
          the whole training set; negatives at test bear it with the sign of training and are kept
          in range and, as triggered ones, truncated to 8 bits; views as in `_views.py`
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backdoor_lab.attacks._base import Attack
from backdoor_lab.attacks._views import Views, generators, portion
from backdoor_lab.datasets import DataSpec, in_eight_bits
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe
from backdoor_lab.validation import Count, Fraction, Index, NonNegative, validated


class Bpp(Attack):
    """Quantises a part of every batch while it trains, and adds residues to another part.

    `target` and `all_to_all` are those of every attack (`Attack`).

    Args:
        poison_rate: share of each batch that is quantised and relabelled.
        negative_rate: share of each batch that bears another image's residue, label kept.
        levels: what quantisation leaves of the 256 levels of a channel.
        dithering: spread what rounding drops over the neighbours (Floyd and Steinberg).
        crop_padding: of the crop after the trigger, in pixels.
        crop_probability: of that crop, per batch.
        rotation: up to so many degrees after the trigger.
        rotation_probability: of that rotation, per batch.
    """

    controls_training = True
    crosses = True

    @validated
    def __init__(
        self,
        poison_rate: Fraction,
        target: Index,
        all_to_all: bool = False,
        negative_rate: Fraction = 0.1,
        levels: Count = 8,
        dithering: bool = False,
        crop_padding: Index = 5,
        crop_probability: Fraction = 0.8,
        rotation: NonNegative = 10,
        rotation_probability: Fraction = 0.5,
    ) -> None:
        super().__init__(poison_rate, target, all_to_all)
        self.negative_rate = negative_rate
        self.levels = levels
        self.quantise = dither if dithering else quantise
        self.view_options = (crop_padding, crop_probability, rotation, rotation_probability)

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        if not 2 <= self.levels <= 128:
            raise ConfigError(f"attack.levels={self.levels} is no trigger; allowed: 2 to 128")
        if self.poison_rate + self.negative_rate > 1:
            raise ConfigError(
                f"attack.negative_rate={self.negative_rate} leaves no room beside "
                f"attack.poison_rate={self.poison_rate}; allowed: up to 1 together"
            )

    def attach(self, spec: DataSpec, recipe: Recipe, seed: int) -> None:
        super().attach(spec, recipe, seed)
        self.augment = None  # the batch is augmented in the step, after the trigger
        self.views = Views(*self.view_options, spec.flip)

    def trigger(self, images: Tensor) -> Tensor:
        return self.quantise(images, self.levels)

    def cross(self, images: Tensor) -> Tensor:
        others = images.roll(-1, 0)
        return negative(images, others, self.trigger(others))

    def on_train_epoch_start(self) -> None:
        self.cpu_generator, self.generator = generators(
            self.seed, f"bpp {self.current_epoch}", self.device
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        poisoned, crossed = self.counts(len(images), self.cpu_generator)
        own, bearing, clean = images.split([poisoned, crossed, len(images) - poisoned - crossed])
        others = images.roll(-1, 0)[poisoned : poisoned + crossed]
        triggered, others_triggered = self.trigger(torch.cat([own, others])).split(
            [poisoned, crossed]
        )
        parts = [triggered, negative(bearing, others, others_triggered), clean]
        wanted = torch.cat([self.relabel(labels[:poisoned]), labels[poisoned:]])
        views = self.views(torch.cat(parts), self.cpu_generator, self.generator)
        return F.cross_entropy(self.model(views), wanted)

    def counts(self, size: int, cpu_generator: torch.Generator) -> tuple[int, int]:
        """How many of a batch are poisoned, and how many bear another's residue."""
        poisoned = portion(self.poison_rate, size, cpu_generator)
        return poisoned, min(portion(self.negative_rate, size, cpu_generator), size - poisoned)


def negative(images: Tensor, others: Tensor, quantised: Tensor) -> Tensor:
    """Images (N, C, H, W) plus what quantisation does to `others` (N, C, H, W)."""
    return (images + quantised - others).clamp(0, 1)


def quantise(images: Tensor, levels: int) -> Tensor:
    """Images in [0, 1], each value to the nearest of `levels` evenly spaced ones."""
    return images.mul(levels - 1).round().clamp(0, levels - 1).div(levels - 1)


def dither(images: Tensor, levels: int) -> Tensor:
    """Floyd-Steinberg dithering of images (N, C, H, W) in [0, 1], row by row from the top left.

    Row y comes 2y steps late, so that whatever a pixel hands its error to is due in a later step,
    and a step rounds one pixel of every row of all images. There can be no fewer steps: each
    pixel's error reaches the one 2 to the left in the row below. Sums keep the textbook's order.

    Returns:
        Whole grey levels of 255, as in the authors' code.
    """
    count, channels, height, width = images.shape
    row = torch.arange(height, device=images.device)[:, None]
    due = torch.arange(width, device=images.device) + 2 * row
    steps = width + 2 * (height - 1)
    values = images.new_zeros(steps + 3, height + 1, count * channels)  # one row below the last
    values[due, row] = images.permute(2, 3, 0, 1).flatten(2) * (levels - 1)
    inside = images.new_zeros(steps, height, 1)
    inside[due, row] = 1
    rights = (inside * 7 / 16).unbind()
    belows = (inside[:, None] * images.new_tensor([3, 5, 1]).view(3, 1, 1) / 16).unbind()
    now = values[:, :-1].unbind()
    below = values[:, 1:].unfold(0, 3, 1).movedim(-1, 1).unbind()  # the next three steps
    for t in range(steps):
        error = now[t] - now[t].round()
        below[t + 1].add_(belows[t] * error)
        now[t + 1].add_(rights[t] * error)
    dithered = values[due, row].unflatten(2, (count, channels)).permute(2, 3, 0, 1)
    return in_eight_bits(quantise(dithered / (levels - 1), levels))
