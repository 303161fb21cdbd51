"""LIRA: bounded noise from a generator that is trained together with the classifier.

Paper     Doan, Lao, Zhao and Li, LIRA: Learnable, Imperceptible and Robust Backdoor Attacks,
          ICCV 2021
Differs   the victim is the classifier of stage 2 (BackdoorBench saves that of stage 1); the
          classifier's gradients from the generator's loss are cleared, as the authors do; images
          are clipped per channel to [0, 1]; stage 2 trains by the victim's recipe, on triggered
          images rounded to 8 bits; clean and triggered images pass through the classifier together,
          so that they share the statistics that the trained model will use; offset, angle and flip
          are drawn per image (`_views.py`)
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from backdoor_lab.attacks._base import Attack, reported
from backdoor_lab.attacks._views import Views, generators
from backdoor_lab.attacks.lira.networks import Autoencoder, ConcatUNet, Perturb
from backdoor_lab.attacks.lira.stage1 import Together, mixed_loss
from backdoor_lab.datasets import DataSpec, ImageSet, in_eight_bits, nearest
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import freeze
from backdoor_lab.seeds import derive, seeded
from backdoor_lab.training import Recipe
from backdoor_lab.validation import Count, Fraction, Index, NonNegative, Positive, validated
from backdoor_lab.victims import Workshop

NETWORKS: dict[str, type[Autoencoder | ConcatUNet]] = {
    "autoencoder": Autoencoder,
    "unet": ConcatUNet,
}


class LIRA(Attack):
    """Stage 1 trains generator and classifier together, stage 2 the classifier alone.

    `target` and `all_to_all` are those of every attack (`Attack`).

    Args:
        eps: bound on the noise, in units of the normalised images.
        alpha: weight of the clean images in the classifier's loss.
        network: the generator, `autoencoder` or `unet`.
        stage1_epochs: with both; those of stage 2 are the victim's recipe's.
        stage1_lr: of the classifier in stage 1.
        generator_lr: of the generator.
        crop_padding: of the crop before the trigger, in pixels.
        rotation: up to so many degrees before the trigger.
    """

    controls_training = True
    eight_bits = staticmethod(nearest)

    @validated
    def __init__(
        self,
        target: Index,
        all_to_all: bool = False,
        eps: Positive = 0.1,
        alpha: Fraction = 0.5,
        network: Literal["autoencoder", "unet"] = "autoencoder",
        stage1_epochs: Count = 50,
        stage1_lr: Positive = 0.01,
        generator_lr: Positive = 1e-4,
        crop_padding: Index = 5,
        rotation: NonNegative = 10,
    ) -> None:
        super().__init__(1.0, target, all_to_all)  # every batch is poisoned in full
        self.eps, self.alpha, self.network = eps, alpha, network
        self.stage1_epochs, self.stage1_lr = stage1_epochs, stage1_lr
        self.generator_lr = generator_lr
        self.view_options = (crop_padding, 1.0, rotation, 1.0)
        self.stage1: dict[str, Tensor] = {}

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        divisor = NETWORKS[self.network].divisor
        if shape[1] % divisor or shape[2] % divisor:
            raise ConfigError(
                f"attack.network={self.network} and images of {shape[1]}x{shape[2]} pixels; "
                f"allowed: sides divisible by {divisor}"
            )

    def attach(self, spec: DataSpec, recipe: Recipe, seed: int) -> None:
        least = 0.5 / 255 / max(spec.std)
        if self.eps <= least:
            raise ConfigError(
                f"attack.eps={self.eps} is lost in 8 bits of {spec.name}; allowed: over {least:.2g}"
            )
        super().attach(spec, recipe, seed)
        self.augment = None  # the batch is augmented in the step, before the trigger
        self.views = Views(*self.view_options, spec.flip)

    def build(self, generator: torch.Generator) -> None:
        self.noise = freeze(self.new_noise())

    def new_noise(self) -> Perturb:
        """The generator as it begins; the same for the same seed."""
        with seeded(derive(self.seed, "trigger")):
            net = NETWORKS[self.network](self.spec.shape[0])
        return Perturb(net, self.spec, self.eps)

    def prepare(self, shop: Workshop) -> None:
        """Stage 1."""
        classifier = shop.factory.build(shop.data.spec, self.seed)
        together = Together(self, self.new_noise(), classifier)
        settings = {
            "model": shop.identity["model"],
            "target": (self.target, self.all_to_all),
            "noise": (self.network, self.eps, together.noise_recipe.settings),
            "classifier": together.recipe.settings,
            "alpha": self.alpha,
            "views": self.view_options,
            "callbacks": [repr(callback) for callback in self.callbacks],
        }

        def make(folder: Path) -> dict[str, Any]:
            callbacks = deepcopy(self.callbacks)
            shop.engine.fit(together, shop.train, "LIRA stage 1", callbacks, folder)
            self.noise.load_state_dict(together.noise.state_dict())
            some = shop.train.take(torch.arange(min(1000, len(shop.train))))
            stamped = ImageSet.of(self.stamp(some.images), self.relabel(some.labels))
            return {
                "accuracy": shop.engine.accuracy(classifier, some),
                "success": shop.engine.accuracy(classifier, stamped),
                **reported(callbacks),
            }

        pair = nn.ModuleDict({"noise": together.noise, "classifier": classifier})
        made = shop.make_once(self, "lira_generator", pair, settings, make)
        self.noise.load_state_dict(together.noise.state_dict())
        self.stage1 = classifier.state_dict()
        self.details |= {"stage1": made.facts, "generator": made.name}

    def learn(
        self, model: nn.Module, poisoned: ImageSet, shop: Workshop, folder: Path | None
    ) -> None:
        """Stage 2: the classifier goes on, the generator stays."""
        model.load_state_dict(self.stage1)
        super().learn(model, poisoned, shop, folder)
        self.stage1 = {}

    def trigger(self, images: Tensor) -> Tensor:
        return self.noise(images)

    def on_train_epoch_start(self) -> None:
        self.cpu_generator, self.generator = generators(
            self.seed, f"lira {self.current_epoch}", self.device
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        views = self.views(images, self.cpu_generator, self.generator)
        stamped = in_eight_bits(self.trigger(views))
        return mixed_loss(self.model, views, labels, stamped, self.relabel(labels), self.alpha)
