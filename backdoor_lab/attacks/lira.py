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

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from backdoor_lab.attacks._base import Attack
from backdoor_lab.attacks._views import Views, streams
from backdoor_lab.attacks.networks.autoencoder import Autoencoder, UNet
from backdoor_lab.datasets import DataSpec, ImageSet, in_eight_bits, nearest
from backdoor_lab.errors import ConfigError
from backdoor_lab.models.classifier import Normalize
from backdoor_lab.seeds import derive, seeded
from backdoor_lab.store import Workshop
from backdoor_lab.training import Manual, Recipe, constant
from backdoor_lab.validation import Count, Fraction, Index, NonNegative, Positive, validated

NETWORKS: dict[str, type[Autoencoder | UNet]] = {"autoencoder": Autoencoder, "unet": UNet}


class LIRA(Attack):
    """Stage 1 trains generator and classifier together, stage 2 the classifier alone.

    Args:
        target: see `Attack`.
        all_to_all: see `Attack`.
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

    def build(self, draw: torch.Generator) -> None:
        with seeded(draw.initial_seed()):
            net = NETWORKS[self.network](self.spec.shape[0])
        self.generator = Perturb(net, self.spec, self.eps).requires_grad_(False).eval()

    def prepare(self, shop: Workshop) -> None:
        """Stage 1."""
        classifier = shop.factory.build(shop.data.spec, self.seed)
        together = Together(self, deepcopy(self.generator), classifier)
        settings = {
            "model": shop.identity["model"],
            "target": (self.target, self.all_to_all),
            "generator": (self.network, self.generator_lr, self.eps),
            "classifier": (self.stage1_epochs, self.stage1_lr, self.recipe.batch_size),
            "alpha": self.alpha,
            "views": self.view_options,
            "callbacks": [repr(callback) for callback in self.callbacks],
        }

        def make(folder: Path) -> dict[str, Any]:
            callbacks = deepcopy(self.callbacks)
            shop.engine.fit(together, shop.train, "LIRA stage 1", callbacks, folder)
            self.generator.load_state_dict(together.generator.state_dict())
            some = shop.train.take(torch.arange(min(1000, len(shop.train))))
            stamped = ImageSet.of(self.stamp(some.images), self.relabel(some.labels))
            return {
                "accuracy": shop.engine.accuracy(classifier, some),
                "success": shop.engine.accuracy(classifier, stamped),
            }

        pair = nn.ModuleDict({"generator": together.generator, "classifier": classifier})
        made = shop.obtain(self, "lira_generator", pair, settings, make)
        self.generator.load_state_dict(together.generator.state_dict())
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
        return self.generator(images)

    def train(self, mode: bool = True) -> LIRA:
        super().train(mode)
        self.generator.eval()
        return self

    def on_train_epoch_start(self) -> None:
        self.coins, self.dice = streams(self.seed, f"lira {self.current_epoch}", self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        views = self.views(images, self.coins, self.dice)
        stamped = in_eight_bits(self.trigger(views))
        return mixed_loss(self.model, views, labels, stamped, self.relabel(labels), self.alpha)


class Together(Manual):
    """Stage 1: Adam on the generator, SGD on the classifier, in turns.

    The classifier sees the noise of `old`, the generator as it was when the epoch began.
    """

    def __init__(self, attack: LIRA, noise: Perturb, classifier: nn.Module) -> None:
        super().__init__()
        self.model = classifier
        self.generator = noise.requires_grad_(True)
        self.old = deepcopy(noise).requires_grad_(False)
        self.generator_lr, self.alpha = attack.generator_lr, attack.alpha
        self.relabel: Callable[[Tensor], Tensor] = attack.relabel
        self.views, self.seed = attack.views, derive(attack.seed, "stage 1")
        self.recipe = Recipe(
            epochs=attack.stage1_epochs,
            batch_size=attack.recipe.batch_size,
            lr=attack.stage1_lr,
            weight_decay=0,
            schedule=constant,
        )

    def train(self, mode: bool = True) -> Together:
        super().train(mode)
        self.old.eval()
        return self

    def configure_optimizers(self) -> Any:
        adam = Adam(self.generator.parameters(), lr=self.generator_lr)
        sgd = self.recipe.optimizers(self.model.parameters(), self.steps_per_epoch)
        return {"optimizer": adam}, sgd

    def on_train_epoch_start(self) -> None:
        self.coins, self.dice = streams(self.seed, f"lira {self.current_epoch}", self.device)
        self.old.load_state_dict(self.generator.state_dict())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        adam, sgd = cast("list[Any]", self.optimizers())
        images, labels = batch
        wanted = self.relabel(labels)
        views = self.views(images, self.coins, self.dice)
        with self.toggled_optimizer(adam):
            self.descend(F.cross_entropy(self.model(self.generator(views)), wanted), adam)
        loss = mixed_loss(self.model, views, labels, self.old(views), wanted, self.alpha)
        self.descend(loss, sgd)
        return loss.detach()


class Perturb(nn.Module):
    """x + eps * G(x) with x normalised; takes and gives images (N, C, H, W) in [0, 1]."""

    def __init__(self, net: nn.Module, spec: DataSpec, eps: float) -> None:
        super().__init__()
        self.net = net
        self.normalize = Normalize(spec.mean, spec.std)
        self.eps = eps

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):  # in bf16 the noise is too coarse
            noise = self.net(self.normalize(images))
            return (images + self.eps * self.normalize.std * noise).clamp(0, 1)


def mixed_loss(
    model: nn.Module, clean: Tensor, labels: Tensor, stamped: Tensor, wanted: Tensor, alpha: float
) -> Tensor:
    """`alpha * CE(clean) + (1 - alpha) * CE(stamped)`."""
    kept, taken = model(torch.cat([clean, stamped])).chunk(2)
    return alpha * F.cross_entropy(kept, labels) + (1 - alpha) * F.cross_entropy(taken, wanted)
