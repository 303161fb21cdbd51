"""LF: one smooth colour gradient, made to fool a clean model and added to every poisoned image.

Paper     Zeng et al., Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective, ICCV
          2021, arXiv:2104.03413; settings of BackdoorBench
Differs   all crafting images take their DeepFool steps at once, and the sum of their moves is
          smoothed in; a step leaves the class that is on top now, where the authors keep the one on
          top at first: two gradients instead of one per class; images and perturbation stay in
          pixel space (BackdoorBench skips the normalisation); the fooling rate is measured on
          training images that craft nothing (BackdoorBench: on one test image); the perturbation
          is in whole grey levels after every pass, not in the end alone
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backdoor_lab.attacks._base import Attack, Base
from backdoor_lab.attacks.lf.deepfool import classes, deepfool
from backdoor_lab.attacks.lf.smoothing import gaussian, gaussian_low_pass, stretched
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import frozen_copy
from backdoor_lab.seeds import generator_for
from backdoor_lab.validation import Count, Fraction, Index, Positive, Rate, validated
from backdoor_lab.victims import Workshop

HELD_OUT = 1000  # training images that measure the fooling rate, at most


class LF(Attack):
    """Adds a low-pass universal perturbation in [0, amplitude].

    The first four are those of every attack (`Attack`); DeepFool aims at `target` also with
    `all_to_all`.

    Args:
        amplitude: largest value of the perturbation, for images in [0, 1].
        sigma: of the Gaussian low-pass, in pixels.
        taps: of its kernel.
        scale_sigma: take `sigma` and `taps` for 32 pixels, and in proportion elsewhere.
        images: training images that craft the perturbation.
        fooling_rate: share of predictions that change on other images, enough to stop.
        passes: over the images, at most.
        steps: of DeepFool, at most.
    """

    perturbation: Tensor

    @validated
    def __init__(
        self,
        poison_rate: Fraction,
        target: Index,
        all_to_all: bool = False,
        poison_rate_base: Base = "train_set",
        amplitude: Rate = 0.2,
        sigma: Positive = 6,
        taps: Count = 30,
        scale_sigma: bool = False,
        images: Count = 100,
        fooling_rate: Rate = 0.2,
        passes: Count = 50,
        steps: Count = 200,
    ) -> None:
        super().__init__(poison_rate, target, all_to_all, poison_rate_base)
        self.amplitude, self.scale_sigma = amplitude, scale_sigma
        self.sigma, self.taps = sigma, taps
        self.images, self.fooling_rate = images, fooling_rate
        self.passes, self.steps = passes, steps

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        if round(255 * self.amplitude) < 1:
            raise ConfigError(
                f"attack.amplitude={self.amplitude} is lost in 8 bits; allowed: 0.002 to 1"
            )

    def build(self, generator: torch.Generator) -> None:
        self.register_buffer("perturbation", torch.zeros(self.spec.shape))

    def trigger(self, images: Tensor) -> Tensor:
        return (images + self.perturbation).clamp(0, 1)

    def prepare(self, shop: Workshop) -> None:
        if self.images >= len(shop.train):
            raise ConfigError(
                f"attack.images={self.images} leaves no training image to measure on; "
                f"allowed: 1 to {len(shop.train) - 1}"
            )
        clean = shop.clean_model()
        order = torch.randperm(len(shop.train), generator=generator_for(shop.seed, "lf images"))

        def make(folder: Path) -> dict[str, Any]:
            del folder  # too short a making to be resumed
            device = shop.engine.device
            pixels = shop.train.cut(order[: self.images + HELD_OUT]).to(device).float() / 255
            found, facts = self.craft(frozen_copy(clean.model).to(device), pixels)
            self.perturbation.copy_(found)
            return facts

        settings = {"clean": clean.name, "target": self.target}
        for name in ("amplitude", "sigma", "taps", "scale_sigma", "images", "fooling_rate"):
            settings[name] = getattr(self, name)
        settings |= {"passes": self.passes, "steps": self.steps}
        made = shop.make_once(self, "lf_perturbation", self, settings, make)
        self.details["perturbation"] = made.facts

    def craft(self, model: nn.Module, pixels: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """The perturbation (C, H, W) in whole grey levels, from `pixels` (N, C, H, W) in [0, 1]."""
        images, held_out = pixels[: self.images], pixels[self.images :]
        kernel = self.kernel(pixels.shape[-1]).to(pixels.device)
        known, plain = classes(model, images), classes(model, held_out)
        values = torch.zeros_like(pixels[0])
        rates: list[float] = []
        while len(rates) < self.passes and not settled(rates, self.fooling_rate):
            resisting = (images + values)[classes(model, images + values) == known]
            moves = deepfool(model, resisting, self.target, self.steps).sum(0)
            smooth = gaussian_low_pass(gaussian_low_pass(moves, kernel) + values, kernel)
            values = (stretched(smooth) * self.amplitude * 255).round() / 255
            fooled = classes(model, (held_out + values).clamp(0, 1))
            rates.append((fooled != plain).float().mean().item())
        if not values.any():
            raise ConfigError(
                f"attack.target={self.target}: no image could be moved there, because the clean "
                "model takes them for it already; allowed: a class that few images are taken for"
            )
        others = plain != self.target
        targeted = (fooled[others] == self.target).float().mean().item()
        facts = {"fooling_rate": rates[-1], "targeted_rate": targeted, "passes": len(rates)}
        return values, facts

    def kernel(self, size: int) -> Tensor:
        """The low-pass for images of `size` pixels."""
        scale = size / 32 if self.scale_sigma else 1
        return gaussian(max(1, round(self.taps * scale)), self.sigma * scale)


def settled(rates: list[float], enough: float) -> bool:
    """Whether the last of `rates` is enough, or the last five are all but the same."""
    recent = rates[-5:]
    stalled = len(recent) == 5 and max(recent) - min(recent) < 0.01
    return stalled or (bool(recent) and recent[-1] >= enough)
