"""COMBAT: a generator of clean-label triggers, learnt in turns with a victim that it deceives.

Paper     Huynh et al., COMBAT: Alternated Training for Effective Clean-Label Backdoor Attacks,
          AAAI 2024
Differs   the victim's poisoned images are blurred and rounded to 8 bits once, as files would be,
          not anew in every epoch; the blur is drawn per image, not per batch, and at test alike for
          all seeds; the surrogate's poisoned images are those of the generator's own step, not a
          second draw; clean model and victim follow the run's recipe and the data set's crop and
          flip, all nets its mean and deviation, and no epoch is chosen by test accuracy; a view is
          rotated to the nearest pixel and uncovers black (`_views.py`), not bilinearly and grey,
          with a chance of 1/4 per batch, not of 1/2 per batch and image
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from backdoor_lab.attacks._base import Attack, Base
from backdoor_lab.attacks._views import Views
from backdoor_lab.attacks.combat.alternation import Alternation, Rules
from backdoor_lab.attacks.combat.distortion import Distortion
from backdoor_lab.attacks.combat.unet import AddingUNet
from backdoor_lab.datasets import ImageSet, nearest
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import derive, generator_for, seeded
from backdoor_lab.training import Recipe, multi_step, sgd
from backdoor_lab.validation import Count, Fraction, Index, NonNegative, Positive, Rate, validated
from backdoor_lab.victims import Workshop


class Combat(Attack):
    """Low-pass noise from a generator, and a faint blur, on images of the target class.

    The first three are those of every attack (`Attack`).

    Args:
        noise_rate: strength of the noise, for images in [-1, 1].
        ratio: share of the frequencies per axis that the noise may hold.
        sigma_min: the weakest blur.
        sigma_max: the strongest blur.
        blur_at_test: whether test images are blurred as well.
        l2_weight: of the squared change in the generator's loss.
        clean_weight: of the clean model's loss in it.
        generator_epochs: of the alternated training; the rate falls tenfold after 1/2 and 3/4.
        generator_lr: of the generator and of the surrogate victim.
        width: channels of the generator's finest level.
        crop_padding: of the views that both nets are shown, in pixels.
        crop_probability: of that crop, per batch.
        rotation: up to so many degrees.
        rotation_probability: of that rotation, per batch.
    """

    clean_label = True
    eight_bits = staticmethod(nearest)

    @validated
    def __init__(
        self,
        poison_rate: Fraction,
        target: Index,
        poison_rate_base: Base = "target_class",
        noise_rate: NonNegative = 0.08,
        ratio: Rate = 0.65,
        sigma_min: Positive = 0.1,
        sigma_max: Positive = 1.0,
        blur_at_test: bool = True,
        l2_weight: NonNegative = 0.02,
        clean_weight: NonNegative = 0.8,
        generator_epochs: Count = 200,
        generator_lr: Positive = 0.01,
        width: Count = 64,
        crop_padding: Index = 5,
        crop_probability: Fraction = 0.8,
        rotation: NonNegative = 10,
        rotation_probability: Fraction = 0.25,
    ) -> None:
        super().__init__(poison_rate, target, False, poison_rate_base)
        self.noise_rate, self.ratio = noise_rate, ratio
        if sigma_min > sigma_max:
            raise ConfigError(
                f"attack.sigma_min={sigma_min} is above attack.sigma_max={sigma_max}; "
                "allowed: up to attack.sigma_max"
            )
        self.sigma = (sigma_min, sigma_max)
        self.weights = (l2_weight, clean_weight)
        self.generator_epochs, self.generator_lr = generator_epochs, generator_lr
        self.width, self.blur_at_test = width, blur_at_test
        self.view_options = (crop_padding, crop_probability, rotation, rotation_probability)

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        if min(shape[1:]) < 32 or shape[1] % 16 or shape[2] % 16:
            raise ConfigError(
                f"dataset.image_size={shape[1]}: the generator of attack=combat halves images four "
                "times; allowed: multiples of 16 from 32"
            )

    def build(self, generator: torch.Generator) -> None:
        with seeded(generator.initial_seed()):
            unet = AddingUNet(self.spec.shape[0], self.width)
        self.distortion = Distortion(unet, self.noise_rate, self.ratio, self.sigma)

    def trigger(self, images: Tensor) -> Tensor:
        generator = generator_for(0, "combat test", images.device)  # no state: alike for all seeds
        return self.distortion(images, generator if self.blur_at_test else None)

    def train_trigger(self, images: Tensor) -> Tensor:
        return self.distortion(images, generator_for(self.seed, "combat train", images.device))

    def prepare(self, shop: Workshop) -> None:
        clean = shop.clean_model()
        share = len(self.choose(shop.train.labels)) / int((shop.train.labels == self.target).sum())
        rules = Rules(self.target, share, *self.weights, Views(*self.view_options, self.spec.flip))
        epochs, batch_size, lr = self.generator_epochs, self.recipe.batch_size, self.generator_lr
        schedule = partial(multi_step, milestones=[max(1, epochs * part // 4) for part in (2, 3)])
        recipe = Recipe(epochs, batch_size, lr, sgd(nesterov=True), schedule)

        def make(folder: Path) -> dict[str, Any]:
            surrogate = shop.factory.build(shop.data.spec, derive(self.seed, "surrogate"))
            duel = Alternation(self.distortion, surrogate, clean.model, rules, recipe, self.seed)
            shop.engine.fit(duel, shop.train, "generator", folder=folder)
            return self.facts(shop, surrogate, clean.model)

        settings = {
            "clean": clean.name,
            "model": shop.identity["model"],
            "seed": self.seed,
            "rules": repr(rules),
            "training": recipe.settings,
            "distortion": (self.noise_rate, self.ratio, self.sigma, self.width),
        }
        made = shop.make_once(self, "combat_generator", self.distortion, settings, make)
        self.details |= {"generator": made.facts}

    def facts(self, shop: Workshop, surrogate: nn.Module, clean: nn.Module) -> dict[str, Any]:
        """What the first thousand training images, triggered, are to the two models."""
        some = shop.train.take(torch.arange(min(1000, len(shop.train)), device=shop.train.device))
        stamped = self.stamp(some.images)
        psnr = peak_signal_noise_ratio(stamped.float(), some.images.float(), data_range=255.0)
        fooled = ImageSet.of(stamped, self.relabel(some.labels))
        return {
            "surrogate_fooled": shop.engine.accuracy(surrogate, fooled),
            "clean_accuracy": shop.engine.accuracy(clean, ImageSet.of(stamped, some.labels)),
            "psnr": psnr.item(),
        }
