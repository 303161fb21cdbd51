"""LC: images of the target class made hard to recognise, then marked in the corners (CLA).

Paper     Turner et al., Label-Consistent Backdoor Attacks, 2019, arXiv:1912.02771
Differs   the robust model has the victim's architecture and is the run's own: it starts from the
          clean model, its radius grows over the first half of one cycle of the rate, and the last
          epoch counts. It normalises in its first layer, the references' sees plain pixels; both
          are perturbed in [0, 1]. Only the images to be poisoned are perturbed.
          A mark grows with the image, in cells that differ by a pixel at most
"""

from __future__ import annotations

from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from backdoor_lab.attacks._base import Attack, Base
from backdoor_lab.attacks.lc.adversarial import AdversarialTraining, Ascent, pgd, robustness
from backdoor_lab.attacks.lc.marks import corner_signs, mark
from backdoor_lab.datasets import ImageSet
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import frozen_copy
from backdoor_lab.seeds import derive, generator_for
from backdoor_lab.training import Recipe, one_cycle
from backdoor_lab.validation import Count, Fraction, Index, Positive, Rate, validated
from backdoor_lab.victims import Workshop

HELD_OUT = 0.05  # share of the training images that the robust model is judged by


class LC(Attack):
    """Poisons the target class with x + d + mark, where d fools an adversarially trained model.

    The first three are those of every attack (`Attack`).

    Args:
        eps: largest change of a pixel by d, in grey levels of 255.
        step: of the ascent to d, in grey levels of 255.
        steps: of that ascent.
        corners: `four` or `bottom_right`.
        size: side of a mark in pixels; None: 3 on 32 pixels, in proportion elsewhere.
        mirror: whether left corners mirror the right ones.
        amplitude: of the mark in poisoned training images; 1 makes its pixels black and white.
        test_amplitude: of the mark in triggered test images; None: `amplitude`.
        robust_epochs: of the adversarial training.
        robust_lr: the peak of its rate.
        robust_eps: what the robust model withstands, in grey levels of 255.
        robust_step: of the ascents in its training, in grey levels of 255.
        robust_steps: of each of those ascents.
    """

    clean_label = True
    signs: Tensor

    @validated
    def __init__(
        self,
        poison_rate: Fraction,
        target: Index,
        poison_rate_base: Base = "target_class",
        eps: Positive = 8,
        step: Positive = 1.5,
        steps: Count = 100,
        corners: Literal["four", "bottom_right"] = "four",
        size: Count | None = None,
        mirror: bool = True,
        amplitude: Rate = 1,
        test_amplitude: Rate | None = None,
        robust_epochs: Count = 30,
        robust_lr: Positive = 0.05,
        robust_eps: Positive = 8,
        robust_step: Positive = 2,
        robust_steps: Count = 10,
    ) -> None:
        super().__init__(poison_rate, target, False, poison_rate_base)
        self.ascent = Ascent(eps / 255, step / 255, steps)
        self.four, self.size, self.mirror = corners == "four", size, mirror
        self.amplitude, self.test_amplitude = amplitude, test_amplitude or amplitude
        self.robust_epochs, self.robust_lr = robust_epochs, robust_lr
        self.robust_ascent = Ascent(robust_eps / 255, robust_step / 255, robust_steps)

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        room = min(shape[1:]) // 2
        if self.size is not None and not 3 <= self.size <= room:
            raise ConfigError(f"attack.size={self.size} is no corner mark; allowed: 3 to {room}")

    def build(self, generator: torch.Generator) -> None:
        _, height, width = self.spec.shape
        size = self.size or max(3, round(3 * min(height, width) / 32))
        self.register_buffer("signs", corner_signs(height, width, size, self.four, self.mirror))

    def prepare(self, shop: Workshop) -> None:
        seed = derive(self.seed, "robust model")
        recipe = Recipe(
            self.robust_epochs, self.recipe.batch_size, self.robust_lr, schedule=one_cycle
        )
        clean = shop.clean_model()
        robust = clean.model
        training = AdversarialTraining(robust, recipe, self.augment, seed, self.robust_ascent)

        def make(folder: Path) -> dict[str, Any]:
            held, rest = divided(shop.train, HELD_OUT, generator_for(self.seed, "held out"))
            shop.engine.fit(training, rest, "robust model", folder=folder)
            return robustness(robust, held, self.robust_ascent, shop.engine)

        settings = {
            "clean": clean.name,
            "ascent": self.robust_ascent._asdict(),
            "training": recipe.settings,
        }
        made = shop.make_once(self, "robust", robust, settings, make)
        self.details["robust_model"] = {"artifact": made.name, **made.facts}
        self.harden = partial(pgd, frozen_copy(robust))  # no sub-module: not saved with the victim

    def train_trigger(self, images: Tensor) -> Tensor:
        parts = images.split(self.recipe.batch_size)
        hard = [self.harden(part, self._targets(part), self.ascent) for part in parts]
        return mark(torch.cat(hard), self.signs, self.amplitude)

    def trigger(self, images: Tensor) -> Tensor:
        return mark(images, self.signs, self.test_amplitude)

    def _targets(self, images: Tensor) -> Tensor:
        return torch.full((len(images),), self.target, device=images.device)


def divided(
    images: ImageSet, share: float, generator: torch.Generator
) -> tuple[ImageSet, ImageSet]:
    """A random share of a set, one image at least, and the rest."""
    order = torch.randperm(len(images), generator=generator)
    count = ceil(share * len(images))
    return images.take(order[:count]), images.take(order[count:])
