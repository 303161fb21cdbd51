"""Input-aware dynamic attack: every image has a trigger of its own, and only that one counts.

Paper     Nguyen and Tran, Input-Aware Dynamic Backdoor Attack, NeurIPS 2020, arXiv:2010.08138
Differs   lambda_div enters the loss of the masks once, not twice; one squashing of the generators'
          outputs, where BackdoorBench has two (`double_tanh`); 1e-12 inside the root of the
          distance; triggered test images are rounded to 8 bits; the classifier's views are crop and
          flip as in BackdoorBench, without the authors' rotation and wider crop; masks are made
          once of each batch, where the code makes those of the first twice
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from backdoor_lab.attacks._base import Attack
from backdoor_lab.attacks._views import portion
from backdoor_lab.attacks.input_aware.masks import MaskTraining, Paired, diversity_loss
from backdoor_lab.attacks.input_aware.networks import SHRINKAGE, EncoderDecoder, threshold
from backdoor_lab.datasets import DataSpec, ImageSet, nearest
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import freeze
from backdoor_lab.seeds import generator_for, seeded
from backdoor_lab.training import Manual, Recipe, multi_step
from backdoor_lab.validation import Count, Fraction, Index, NonNegative, Positive, validated
from backdoor_lab.victims import Workshop

MASK_MILESTONES = [10, 20]
PATTERN_MILESTONES = [200, 300, 400, 500]


class InputAware(Attack, Paired, Manual):
    """Trains masks first, then the victim together with the generator of patterns.

    `target` and `all_to_all` are those of every attack (`Attack`).

    Args:
        poison_rate: share of each batch that bears its own triggers and is relabelled.
        cross_rate: share of each batch that bears other images' triggers, labels kept.
        mask_epochs: of the masks' training.
        count_mask_epochs: the recipe's epochs include them, so that the victim gets the rest.
        mask_density: up to this value a mask's pixel costs nothing.
        lambda_div: weight of triggers that differ as the images do.
        lambda_norm: weight of the masks' sparsity.
        generator_lr: of Adam on both generators.
        accumulate_generator_grad: never clear the gradients of the patterns' generator.
        double_tanh: squash the generators' outputs twice, which confines them to (0.119, 0.881).
        width: channels of the generators' first level.
    """

    controls_training = True
    learns_trigger = True
    crosses = True
    eight_bits = staticmethod(nearest)

    @validated
    def __init__(
        self,
        poison_rate: Fraction,
        target: Index,
        all_to_all: bool = False,
        cross_rate: Fraction = 0.1,
        mask_epochs: Count = 25,
        count_mask_epochs: bool = True,
        mask_density: Fraction = 0.032,
        lambda_div: NonNegative = 1,
        lambda_norm: NonNegative = 100,
        generator_lr: Positive = 0.01,
        accumulate_generator_grad: bool = True,
        double_tanh: bool = False,
        width: Count = 32,
    ) -> None:
        super().__init__(poison_rate, target, all_to_all)
        self.cross_rate = cross_rate
        self.mask_epochs, self.count_mask_epochs = mask_epochs, count_mask_epochs
        self.mask_density, self.generator_lr = mask_density, generator_lr
        self.lambda_div, self.lambda_norm = lambda_div, lambda_norm
        self.accumulate_generator_grad = accumulate_generator_grad
        self.double_tanh, self.width = double_tanh, width

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        if any(side % SHRINKAGE for side in shape[1:]):
            raise ConfigError(
                f"dataset.image_size={shape[1]}x{shape[2]} does not suit attack=input_aware; "
                f"allowed: multiples of {SHRINKAGE}"
            )
        if self.poison_rate + self.cross_rate > 1:
            raise ConfigError(
                f"attack.cross_rate={self.cross_rate} leaves no room beside "
                f"attack.poison_rate={self.poison_rate}; allowed: up to 1 together"
            )

    def attach(self, spec: DataSpec, recipe: Recipe, seed: int) -> None:
        super().attach(spec, recipe, seed)
        if not self.count_mask_epochs:
            return
        if recipe.epochs <= self.mask_epochs:
            raise ConfigError(
                f"attack.mask_epochs={self.mask_epochs} leaves nothing of recipe.epochs="
                f"{recipe.epochs}; allowed: fewer, or attack.count_mask_epochs=false"
            )
        self.recipe = replace(recipe, epochs=recipe.epochs - self.mask_epochs)

    def build(self, generator: torch.Generator) -> None:
        with seeded(generator.initial_seed()):
            channels = self.spec.shape[0]
            self.patterns = EncoderDecoder(self.spec, channels, self.width, self.double_tanh)
            self.masks = EncoderDecoder(self.spec, 1, self.width, self.double_tanh)

    def prepare(self, shop: Workshop) -> None:
        recipe = self.painting(self.mask_epochs, MASK_MILESTONES)
        weights = (self.lambda_div, self.lambda_norm)

        def make(folder: Path) -> dict[str, float]:
            training = MaskTraining(self.masks, recipe, self.augment, self.seed)
            training.density, training.weights = self.mask_density, weights
            training.pair(shop.engine, shop.train)
            shop.engine.fit(training, shop.train, "masks", folder=folder)
            return {"coverage": self.coverage(shop.train)}

        settings = {
            "training": recipe.settings,
            "density": self.mask_density,
            "weights": weights,
            "network": (self.width, self.double_tanh),
        }
        self.details["masks"] = shop.make_once(self, "iab_masks", self.masks, settings, make).facts
        freeze(self.masks)

    def painting(self, epochs: int, milestones: list[int]) -> Recipe:
        """How a generator is trained."""
        adam = partial(Adam, betas=(0.5, 0.9))
        schedule = partial(multi_step, milestones=milestones)
        return replace(
            self.recipe, epochs=epochs, lr=self.generator_lr, optimizer=adam, schedule=schedule
        )

    @torch.no_grad()
    def coverage(self, data: ImageSet) -> float:
        """Mean of the masks of (up to 1,000) images of `data`."""
        some = torch.arange(min(len(data), 1000), device=data.device)
        images = data.cut(some).to(self.masks.normalize.mean.device).float() / 255
        return threshold(self.masks.eval()(images)).mean().item()

    def trigger(self, images: Tensor) -> Tensor:
        return self.eval().paint(images, images)[0]

    def cross(self, images: Tensor) -> Tensor:
        return self.eval().paint(images, images.roll(1, 0))[0]

    def paint(self, images: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        """`images` (N, C, H, W) with the triggers that belong to `sources`, and their patterns.

        x + (p - x) m commutes with the normalisation, so that images stay in [0, 1].
        """
        if not len(images):  # BatchNorm has no statistics of nothing
            return images, images
        patterns, masks = self.patterns(sources), threshold(self.masks(sources))
        return torch.lerp(images, patterns, masks.expand_as(images)), patterns

    def learn(
        self, model: nn.Module, poisoned: ImageSet, shop: Workshop, folder: Path | None
    ) -> None:
        self.pair(shop.engine, poisoned)
        super().learn(model, poisoned, shop, folder)
        del self.partners

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.cpu_generator = generator_for(self.seed, f"input_aware {self.current_epoch}")

    def counts(self, size: int, cpu_generator: torch.Generator) -> tuple[int, int]:
        """How many of a batch bear their own trigger, and how many another image's."""
        poisoned = portion(self.poison_rate, size, cpu_generator)
        return poisoned, min(portion(self.cross_rate, size, cpu_generator), size - poisoned)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        (images, labels), (others, _) = batch, next(self.others)
        poisoned, crossed = self.counts(len(images), self.cpu_generator)
        own, crossing, clean = images.split([poisoned, crossed, len(images) - poisoned - crossed])
        others = others[poisoned : poisoned + crossed]
        triggered, patterns = self.paint(own, own)
        confused, other_patterns = self.paint(crossing, others)
        wanted = torch.cat([self.relabel(labels[:poisoned]), labels[poisoned:]])
        loss = F.cross_entropy(self.model(torch.cat([triggered, confused, clean])), wanted)
        if pairs := min(poisoned, crossed):
            seen = [part[:pairs] for part in (own, others, patterns, other_patterns)]
            diversity = diversity_loss(*map(self.patterns.normalize, seen))
            loss = loss + self.lambda_div * diversity
        self.step(loss)
        return loss.detach()

    def step(self, loss: Tensor) -> None:
        """Both optimizers' step down the gradient of `loss`."""
        victim, painter = cast(list[Optimizer], self.optimizers())
        victim.zero_grad()
        if not self.accumulate_generator_grad:
            painter.zero_grad()
        self.manual_backward(loss)
        self.clip(victim)
        self.clip(painter)
        victim.step()
        painter.step()

    def configure_optimizers(self) -> Any:
        victim = self.recipe.optimizers(self.model.parameters(), self.steps_per_epoch)
        painting = self.painting(self.recipe.epochs, PATTERN_MILESTONES)
        return [victim, painting.optimizers(self.patterns.parameters(), self.steps_per_epoch)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the accumulated gradients too, so that a resumed training is the same."""
        checkpoint["gradients"] = [parameter.grad for parameter in self.patterns.parameters()]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for parameter, gradient in zip(
            self.patterns.parameters(), checkpoint["gradients"], strict=True
        ):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
