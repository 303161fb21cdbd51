"""SBL: a victim whose attacker has fine-tuned it already, out of a flat minimum.

Paper     Pham et al., Flatness-aware Sequential Learning Generates Resilient Backdoors, ECCV 2024,
          arXiv:2407.14738
Differs   the split is stratified, and its shares are of the training split, which lacks the
          defender's 5% already; images are augmented without PIL and normalised in the model;
          information is gathered in eval mode, where the code has batches of one in train mode;
          with `dat=false` the rate is of the training split, 95% of the official one; no A-GEM
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backdoor_lab.attacks._base import Attack
from backdoor_lab.attacks._continual import (
    Batch,
    Penalty,
    by_an_anchor,
    climbed,
    elastically,
    frozen_statistics,
    naively,
)
from backdoor_lab.attacks._wrapper import Wrapper
from backdoor_lab.datasets import DataSpec, ImageSet, stratified
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import generator
from backdoor_lab.store import Workshop
from backdoor_lab.training import CropFlip, Manual, Recipe, constant, cosine
from backdoor_lab.validation import Count, NonNegative, Positive, Rate, validated

Poisoning = Callable[[Tensor, Tensor, torch.Generator], Batch]
PENALTIES = {"ewc": elastically, "anchoring": by_an_anchor, "naive": naively}
STATISTICS: dict[str, Callable[[nn.Module], AbstractContextManager[None]]] = {
    "frozen": frozen_statistics,
    "update": lambda _: nullcontext(),
}


class SBL(Wrapper):
    """Learns the backdoor in a flat minimum, then fine-tunes on clean images and stays close.

    Args:
        inner: the attack whose trigger is learnt; the target and the rate are its own.
        clean_share: share of the training images that the second stage learns on.
        dat: trigger after augmentation, anew in each step; false: images poisoned once, before it.
        radius: of the climb in sharpness-aware minimisation.
        first_epochs: of the first stage.
        first_batch_size: likewise.
        first_lr: likewise.
        first_weight_decay: likewise.
        penalty: what holds the second stage: `ewc`, `anchoring` or `naive` (nothing).
        strength: factor on the penalty.
        fisher_data: images whose information `ewc` keeps: `clean`, or `mixed` as the first stage's.
        stage1_bn: running statistics of the second stage: `update` or `frozen`.
        second_epochs: of the second stage.
        second_batch_size: likewise.
        second_lr: likewise.
        second_weight_decay: likewise.
        step_scheduler: half a cosine in each stage, else constant rates.
    """

    controls_training = True

    @validated
    def __init__(
        self,
        inner: Attack,
        clean_share: Rate = 0.105,
        dat: bool = True,
        radius: Positive = 0.05,
        first_epochs: Count = 150,
        first_batch_size: Count = 128,
        first_lr: Positive = 0.01,
        first_weight_decay: NonNegative = 0,
        penalty: Literal["ewc", "anchoring", "naive"] = "ewc",
        strength: NonNegative = 1,
        fisher_data: Literal["clean", "mixed"] = "clean",
        stage1_bn: Literal["update", "frozen"] = "update",
        second_epochs: Count = 100,
        second_batch_size: Count = 256,
        second_lr: Positive = 0.001,
        second_weight_decay: NonNegative = 5e-4,
        step_scheduler: bool = False,
    ) -> None:
        super().__init__(inner)
        self.clean_label = self.crosses = False  # every class is relabelled; nothing else is learnt
        self.eight_bits = inner.eight_bits
        self.clean_share, self.dat, self.radius = clean_share, dat, radius
        self.hold, self.strength = PENALTIES[penalty], strength
        self.fisher_mixed = fisher_data == "mixed"
        self.statistics = STATISTICS[stage1_bn]
        schedule = cosine if step_scheduler else constant
        self.first = Recipe(
            first_epochs, first_batch_size, first_lr, 0.9, first_weight_decay, schedule
        )
        self.second = Recipe(
            second_epochs, second_batch_size, second_lr, 0.9, second_weight_decay, schedule
        )
        self.penalty: Penalty

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        if self.inner.learns_trigger:
            raise ConfigError(
                f"attack.inner={type(self.inner).__name__} learns its trigger together with its "
                "victim; allowed: attacks whose trigger is ready before"
            )

    def attach(self, spec: DataSpec, recipe: Recipe, seed: int) -> None:
        super().attach(spec, recipe, seed)
        self.recipe = self.second

    def prepare(self, shop: Workshop) -> None:
        super().prepare(shop)
        self.details |= self.inner.details

    def choose(self, labels: Tensor) -> Tensor:
        return torch.empty(0, dtype=torch.int64)

    def poison(self, train: ImageSet) -> tuple[ImageSet, Tensor]:
        return train, self.choose(train.labels)

    def learn(
        self, model: nn.Module, poisoned: ImageSet, shop: Workshop, folder: Path | None
    ) -> None:
        mixed, clean = self.split(poisoned)
        if self.dat:
            task, change = mixed, self.sprinkled
        else:
            task, change = self.poisoned_once(mixed, len(poisoned)), unchanged
        self.learn_first(model, FirstStage(self, model, change), task, clean, shop)
        if not self.fisher_mixed:
            task, change = mixed, unchanged
        size = self.first.batch_size
        batches = shop.engine.batches(task, size, seed=self.seed, augment=self.augment)
        dice = generator(self.seed, "sbl fisher", self.device)
        seen = (change(images, labels, dice) for images, labels in batches)
        self.penalty = self.hold(model, seen, 2 * len(batches) * size)  # half the mean: theirs
        with self.statistics(model):
            super().learn(model, clean, shop, folder)
        del self.penalty

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.model(images)
        return F.cross_entropy(logits, labels) + self.strength * self.penalty(images, logits)

    def split(self, train: ImageSet) -> tuple[ImageSet, ImageSet]:
        """The images of the first stage and of the second, the same for all seeds of a run."""
        clean = stratified(train.labels, self.clean_share, generator(0, "sbl split"))
        rest = torch.ones(len(train), dtype=torch.bool)
        rest[clean] = False
        if not 2 <= len(clean) <= len(train) - 2:
            raise ConfigError(
                f"attack.clean_share={self.clean_share} means {len(clean)} of {len(train)} images; "
                f"allowed: 2 to {len(train) - 2}"
            )
        return train.take(rest.nonzero().flatten()), train.take(clean)

    def sprinkled(self, images: Tensor, labels: Tensor, dice: torch.Generator) -> Batch:
        """A batch whose images are each triggered and relabelled with the poison rate's chance."""
        heads = torch.rand(len(images), generator=dice, device=images.device)
        hit = heads < self.inner.poison_rate
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            triggered = self.train_trigger(images)
        images = torch.where(hit.view(-1, 1, 1, 1), triggered, images)
        return images, torch.where(hit, self.relabel(labels), labels)

    def poisoned_once(self, mixed: ImageSet, count: int) -> ImageSet:
        """`mixed` with as many poisoned images as the rate means of `count`."""
        order = torch.randperm(len(mixed), generator=generator(self.seed, "poison"))
        chosen = order[: round(self.inner.poison_rate * count)].sort().values
        images = self._eight_bit(mixed.cut(chosen), self.train_trigger)
        return mixed.overwrite(chosen, images, self.relabel(mixed.labels[chosen]))

    def learn_first(
        self, model: nn.Module, stage: FirstStage, task: ImageSet, clean: ImageSet, shop: Workshop
    ) -> None:
        """Fill `model` with what the first stage makes of it, an artifact of its own."""
        stamped = self._eight_bit(clean.cut(torch.arange(min(16, len(clean)))), self.train_trigger)
        settings = {
            "model": shop.identity["model"],
            "trigger": hashlib.sha256(stamped.cpu().numpy().tobytes()).hexdigest(),
            "labels": self.relabel(torch.arange(self.spec.num_classes)).tolist(),
            "poison_rate": self.inner.poison_rate,
            "clean_share": self.clean_share,
            "dat": self.dat,
            "radius": self.radius,
            "epochs": self.first.epochs,
            "batch_size": self.first.batch_size,
            "lr": self.first.lr,
            "weight_decay": self.first.weight_decay,
            "schedule": self.first.schedule.__name__,
        }

        def make(folder: Path) -> dict[str, float]:
            shop.engine.fit(stage, task, "first stage", folder=folder)
            wanted = clean.take(self.counted(clean.labels).nonzero().flatten())
            triggered = ImageSet.of(self.stamp(wanted.images), self.relabel(wanted.labels))
            return {
                "accuracy": shop.engine.accuracy(model, clean),
                "asr": shop.engine.accuracy(model, triggered),
            }

        facts = shop.obtain(self, "sbl_first_stage", model, settings, make).facts
        self.details |= {f"first_stage_{name}": value for name, value in facts.items()}


class FirstStage(Manual):
    """Sharpness-aware training of `model` on batches that `poisoning` changes."""

    def __init__(self, attack: SBL, model: nn.Module, poisoning: Poisoning) -> None:
        super().__init__()
        self.model, self.poisoning = model, poisoning
        self.recipe, self.radius = attack.first, attack.radius
        self.augment: CropFlip | None = attack.augment
        self.seed = attack.seed

    def on_train_epoch_start(self) -> None:
        self.dice = generator(self.seed, f"sbl {self.current_epoch}", self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = self.poisoning(*batch, self.dice)
        optimizer: Any = self.optimizers()
        loss = F.cross_entropy(self.model(images), labels)
        optimizer.zero_grad()
        self.manual_backward(loss)
        with climbed(self.model.parameters(), self.radius), frozen_statistics(self.model):
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self.model(images), labels))
        optimizer.step()
        return loss.detach()


def unchanged(images: Tensor, labels: Tensor, dice: torch.Generator) -> Batch:
    """The batch as it is."""
    del dice
    return images, labels
