"""COMBAT: a generator of clean-label triggers, learnt in turns with a victim that it deceives.

Paper     Huynh et al., COMBAT: Alternated Training for Effective Clean-Label Backdoor Attacks,
          AAAI 2024
Differs   the victim is given files: its poisoned images are blurred and rounded to 8 bits once,
          not anew in every epoch; the blur is drawn per image, not per batch, and at test alike for
          all seeds; the surrogate's poisoned images are those of the generator's own step, not a
          second draw; clean model and victim follow the run's recipe, and no epoch is chosen by
          test accuracy; a view is rotated to the nearest pixel and uncovers black (`_views.py`),
          not bilinearly and grey, by a coin of 1/4 per batch, not of 1/2 per batch, then per image
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from backdoor_lab.attacks._base import Attack, Base
from backdoor_lab.attacks._frequency import blur, low_pass
from backdoor_lab.attacks._views import Views, streams
from backdoor_lab.attacks.networks.unet import UNet
from backdoor_lab.datasets import ImageSet, nearest
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import derive, generator_for, seeded
from backdoor_lab.store import Workshop
from backdoor_lab.training import Manual, Recipe, multi_step
from backdoor_lab.validation import Count, Fraction, Index, NonNegative, Positive, Rate, validated


class Combat(Attack):
    """Low-pass noise from a generator, and a faint blur, on images of the target class.

    Args:
        poison_rate: see `Attack`.
        target: see `Attack`.
        poison_rate_base: see `Attack`.
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

    def build(self, draw: torch.Generator) -> None:
        with seeded(draw.initial_seed()):
            unet = UNet(self.spec.shape[0], self.width)
        self.distortion = Distortion(unet, self.noise_rate, self.ratio, self.sigma)

    def trigger(self, images: Tensor) -> Tensor:
        dice = generator_for(0, "combat test", images.device)  # no state: alike for all seeds
        return self.distortion(images, dice if self.blur_at_test else None)

    def train_trigger(self, images: Tensor) -> Tensor:
        return self.distortion(images, generator_for(self.seed, "combat train", images.device))

    def prepare(self, shop: Workshop) -> None:
        clean = shop.clean_model()
        share = len(self.choose(shop.train.labels)) / int((shop.train.labels == self.target).sum())
        rules = Rules(self.target, share, *self.weights, Views(*self.view_options, self.spec.flip))
        epochs, batch_size, lr = self.generator_epochs, self.recipe.batch_size, self.generator_lr
        schedule = partial(multi_step, milestones=[max(1, epochs * part // 4) for part in (2, 3)])
        recipe = Recipe(epochs, batch_size, lr, schedule=schedule)

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
            "training": (epochs, batch_size, lr),
            "distortion": (self.noise_rate, self.ratio, self.sigma, self.width),
        }
        made = shop.obtain(self, "combat_generator", self.distortion, settings, make)
        self.details |= {"generator": made.facts}

    def facts(self, shop: Workshop, surrogate: nn.Module, clean: nn.Module) -> dict[str, Any]:
        """What the first thousand training images, triggered, are to the two models."""
        some = shop.train.take(torch.arange(min(1000, len(shop.train)), device=shop.train.device))
        stamped = self.stamp(some.images)
        error = F.mse_loss(stamped.float() / 255, some.images.float() / 255)
        fooled = ImageSet.of(stamped, self.relabel(some.labels))
        return {
            "surrogate_fooled": shop.engine.accuracy(surrogate, fooled),
            "clean_accuracy": shop.engine.accuracy(clean, ImageSet.of(stamped, some.labels)),
            "psnr": -10 * error.clamp(min=1e-10).log10().item(),
        }


class Distortion(nn.Module):
    """`Blur(clamp(x + noise_rate * low_pass(unet(x)), -1, 1))`, handed images in [0, 1]."""

    def __init__(
        self, unet: nn.Module, noise_rate: float, ratio: float, sigma: tuple[float, float]
    ) -> None:
        super().__init__()
        self.unet = unet
        self.noise_rate, self.ratio, self.sigma = noise_rate, ratio, sigma

    def forward(self, images: Tensor, dice: torch.Generator | None) -> Tensor:
        """Triggered images (N, C, H, W) in [0, 1]; `dice` draws the blurs, without it is none."""
        centred = images * 2 - 1
        noise = low_pass(self.unet(centred), self.ratio)
        changed = (centred + self.noise_rate * noise).clamp(-1, 1) / 2 + 0.5
        if dice is None:
            return changed
        low, high = self.sigma
        draws = torch.rand(len(images), generator=dice, device=images.device)
        return blur(changed, low + (high - low) * draws)


@dataclass(frozen=True)
class Rules:
    """Of the alternated training; `share` is that of class `target` which is poisoned."""

    target: int
    share: float
    l2_weight: float
    clean_weight: float
    views: Views


class Alternation(Manual):
    """Per batch a step of the surrogate victim, `model`, then one of the generator."""

    def __init__(
        self,
        distortion: Distortion,
        surrogate: nn.Module,
        clean: nn.Module,
        rules: Rules,
        recipe: Recipe,
        seed: int,
    ) -> None:
        super().__init__()
        self.distortion = distortion
        self.model = surrogate
        self.clean = clean.requires_grad_(False)
        self.rules, self.recipe, self.seed = rules, recipe, seed

    def train(self, mode: bool = True) -> Alternation:
        """The clean model stays as it is."""
        super().train(mode)
        self.clean.eval()
        return self

    def configure_optimizers(self) -> Any:
        return [self.nesterov(self.model), self.nesterov(self.distortion)]

    def nesterov(self, module: nn.Module) -> dict[str, Any]:
        """As `Recipe.optimizers`, with Nesterov's momentum."""
        config = self.recipe.optimizers(module.parameters(), self.steps_per_epoch)
        config["optimizer"].param_groups[0]["nesterov"] = True
        return config

    def on_train_epoch_start(self) -> None:
        self.coins, self.dice = streams(self.seed, f"combat {self.current_epoch}", self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        optimizers: list[Optimizer] = self.optimizers()  # type: ignore[assignment]
        stamped = self.distortion(images, self.dice)
        self.descend(self.surrogate_loss(images, stamped.detach(), labels), optimizers[0])
        self.model.eval().requires_grad_(False)
        loss = self.generator_loss(images, stamped, labels)
        self.descend(loss, optimizers[1])
        self.model.train().requires_grad_(True)
        return loss.detach()

    def surrogate_loss(self, images: Tensor, stamped: Tensor, labels: Tensor) -> Tensor:
        """Of a clean-label victim: a random part of class t bears the trigger, labels are true."""
        lucky = torch.rand(len(images), generator=self.dice, device=images.device)
        chosen = (labels == self.rules.target) & (lucky < self.rules.share)
        poisoned = torch.where(chosen.view(-1, 1, 1, 1), stamped, images)
        return F.cross_entropy(self.model(self.view(poisoned)), labels)

    def generator_loss(self, images: Tensor, stamped: Tensor, labels: Tensor) -> Tensor:
        """The surrogate is to see class t, the clean model the true class, the eye no change."""
        rules = self.rules
        wanted = torch.full_like(labels, rules.target)
        fooled = F.cross_entropy(self.model(self.view(stamped)), wanted)
        change = 4 * F.mse_loss(stamped, images)  # on images in [-1, 1]
        unseen = F.cross_entropy(self.clean(self.view(stamped)), labels)
        return fooled + rules.l2_weight * change + rules.clean_weight * unseen

    def view(self, images: Tensor) -> Tensor:
        """A view of `images` as never before."""
        return self.rules.views(images, self.coins, self.dice)
