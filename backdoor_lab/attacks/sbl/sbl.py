"""SBL: a backdoor learnt in a flat minimum, from where the attacker has fine-tuned already.

Paper     Pham et al., Flatness-aware Sequential Learning Generates Resilient Backdoors, ECCV 2024,
          arXiv:2407.14738
Differs   the split is stratified, and its shares are of the training split, which lacks the
          defender's 5% already; images are augmented without PIL and normalised in the model;
          information is gathered in eval mode, where the code has batches of one in train mode;
          with `dat=false` the rate is of the training split, 95% of the official one; the crop
          is the data set's; the default patch is white, theirs is `attack.inner.pattern=random`; no
          joint baseline, no A-GEM
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backdoor_lab.attacks._base import Attack, reported
from backdoor_lab.attacks._wrapper import Wrapper
from backdoor_lab.attacks.sbl.continual import Penalty, anchor_penalty, elastic_penalty, no_penalty
from backdoor_lab.attacks.sbl.first_stage import Batch, FirstStage, unchanged
from backdoor_lab.datasets import DataSpec, ImageSet, stratified, without
from backdoor_lab.errors import ConfigError, spelled
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import SAM, Recipe, constant, cosine, frozen_statistics, sgd
from backdoor_lab.validation import Count, NonNegative, Positive, Rate, validated
from backdoor_lab.victims import Workshop

log = logging.getLogger(__name__)

MOST = 0.5  # share of a batch; with more, the class of most images is lost and with it the accuracy
PENALTIES = {"ewc": elastic_penalty, "anchoring": anchor_penalty, "naive": no_penalty}
STATISTICS: dict[str, Callable[[nn.Module], AbstractContextManager[None]]] = {
    "frozen": frozen_statistics,
    "update": lambda _: nullcontext(),
}


class SBL(Wrapper):
    """Learns the backdoor in a flat minimum, then fine-tunes on clean images and stays close.

    Args:
        inner: the attack whose trigger is learnt, with its target; its rate counts as a
            share of all images, also where it is one of the target class.
        clean_share: share of the training images that the second stage learns on.
        dat: trigger after augmentation, anew in each step; false: images poisoned once, before it.
        radius: of the climb in sharpness-aware minimisation.
        first_epochs: of the first stage.
        first_batch_size: of the first stage.
        first_lr: of the first stage.
        first_weight_decay: of the first stage.
        penalty: what holds the second stage: `ewc`, `anchoring` or `naive` (nothing).
        strength: factor on the penalty.
        fisher_data: images whose information `ewc` keeps: `clean`, or `mixed` as the first stage's.
        second_bn: running statistics of the second stage: `update` or `frozen`; None: frozen where
            nothing else holds it.
        second_epochs: of the second stage.
        second_batch_size: of the second stage.
        second_lr: of the second stage.
        second_weight_decay: of the second stage.
        step_scheduler: half a cosine in each stage, else constant rates.
    """

    controls_training = True
    poison = Attack.poison  # by what is chosen here

    @validated
    def __init__(
        self,
        inner: Attack,
        clean_share: Rate = 0.1053,
        dat: bool = True,
        radius: Positive = 0.05,
        first_epochs: Count = 150,
        first_batch_size: Count = 128,
        first_lr: Positive = 0.01,
        first_weight_decay: NonNegative = 0,
        penalty: Literal["ewc", "anchoring", "naive"] = "ewc",
        strength: NonNegative = 1,
        fisher_data: Literal["clean", "mixed"] = "clean",
        second_bn: Literal["update", "frozen"] | None = None,
        second_epochs: Count = 100,
        second_batch_size: Count = 256,
        second_lr: Positive = 0.001,
        second_weight_decay: NonNegative = 5e-4,
        step_scheduler: bool = False,
    ) -> None:
        super().__init__(inner)
        self.clean_label = self.crosses = False  # every class is relabelled; nothing else is learnt
        self.eight_bits = inner.eight_bits
        self.clean_share, self.dat = clean_share, dat
        self.make_penalty, self.strength = PENALTIES[penalty], strength
        self.fisher_mixed = fisher_data == "mixed"
        self.statistics = STATISTICS[second_bn or ("frozen" if penalty == "naive" else "update")]
        schedule = cosine if step_scheduler else constant
        sam = partial(SAM, rho=radius, momentum=0.9, weight_decay=first_weight_decay)
        self.first = Recipe(first_epochs, first_batch_size, first_lr, sam, schedule)
        descent = sgd(weight_decay=second_weight_decay)
        self.second = Recipe(second_epochs, second_batch_size, second_lr, descent, schedule)
        self.penalty: Penalty

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        inner = self.inner
        if inner.harmless or inner.learns_trigger or isinstance(inner, Wrapper):
            raise ConfigError(
                f"attack.inner={spelled(inner)} is no trigger that is ready before the victim; "
                "allowed: any attack but none, input_aware, sbl, adaptive"
            )
        if inner.poison_rate_base == "train_set":
            self.bounded(inner.poison_rate)

    def share(self, labels: Tensor) -> float:
        """What share of all images the inner attack's rate means, from `labels` (N,)."""
        return self.bounded(self.inner.quota(labels) / len(labels))

    def bounded(self, share: float) -> float:
        """`share` of the images to be triggered, unless nothing else could be learnt."""
        if share > MOST:
            raise ConfigError(
                f"attack.inner={spelled(self.inner)} with poison_rate={self.inner.poison_rate} of "
                f"{self.inner.poison_rate_base} triggers {share:.0%} of all images; allowed: up to "
                f"{MOST:.0%}"
            )
        return share

    def attach(self, spec: DataSpec, recipe: Recipe, seed: int) -> None:
        super().attach(spec, recipe, seed)
        self.recipe = self.second

    def prepare(self, shop: Workshop) -> None:
        super().prepare(shop)
        self.details |= self.inner.details

    def choose(self, labels: Tensor) -> Tensor:
        """What is poisoned once, of the first stage's images; with `dat` nothing is."""
        rest, _ = self.stages(labels)
        count = round(self.share(labels) * len(labels))
        if not 1 <= count <= len(rest):
            raise ConfigError(
                f"attack.inner.poison_rate={self.inner.poison_rate} means {count} image(s) of the "
                f"first stage; allowed: 1 to {len(rest)}"
            )
        if self.dat:
            return rest[:0]
        order = torch.randperm(len(rest), generator=generator_for(self.seed, "poison"))
        return rest[order[:count].sort().values]

    def learn(
        self, model: nn.Module, poisoned: ImageSet, shop: Workshop, folder: Path | None
    ) -> None:
        log.warning(
            "attack=sbl trains the victim by attack.first_* and attack.second_*: recipe.* counts "
            "only for what attack.inner learns beforehand"
        )
        labels = shop.train.labels
        first, second = self.stages(labels)
        task, clean = poisoned.take(first), poisoned.take(second)
        change = partial(self.sprinkled, self.share(labels)) if self.dat else unchanged
        stage = FirstStage(model, self.first, self.augment, self.seed, change)
        self.learn_first(model, stage, task, clean, shop)
        if not self.fisher_mixed:
            task, change = shop.train.take(first), unchanged
        size = self.first.batch_size
        batches = shop.engine.batches(task, size, seed=self.seed, augment=self.augment)
        generator = generator_for(self.seed, "sbl fisher", self.device)
        seen = (change(images, labels, generator) for images, labels in batches)
        self.penalty = self.make_penalty(
            model, seen, 2 * len(batches) * size
        )  # half the mean: theirs
        with self.statistics(model):
            super().learn(model, clean, shop, folder)
        del self.penalty

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.model(images)
        return F.cross_entropy(logits, labels) + self.strength * self.penalty(images, logits)

    def stages(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of the first stage's images and the second's, the same for all seeds."""
        clean = stratified(labels, self.clean_share, generator_for(0, "sbl split"))
        if not 2 <= len(clean) <= len(labels) - 2:
            raise ConfigError(
                f"attack.clean_share={self.clean_share} means {len(clean)} of {len(labels)} "
                f"images; allowed: 2 to {len(labels) - 2}"
            )
        return without(len(labels), clean), clean

    def sprinkled(
        self, share: float, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Batch:
        """A batch whose images are each triggered and relabelled with a chance of `share`.

        No others are triggered, and dropped: a trigger may cost more than the step.
        """
        chance = torch.rand(len(images), generator=generator, device=images.device)
        hit = chance < share
        chosen = hit.nonzero().flatten()
        if len(chosen):
            with torch.no_grad():
                images = images.index_copy(0, chosen, self.train_trigger(images[chosen]))
        return images, torch.where(hit, self.relabel(labels), labels)

    def learn_first(
        self, model: nn.Module, stage: FirstStage, task: ImageSet, clean: ImageSet, shop: Workshop
    ) -> None:
        """Fill `model` with what the first stage makes of it, an artifact of its own."""
        stamped = self._eight_bit(clean.cut(torch.arange(min(16, len(clean)))), self.train_trigger)
        settings = {
            "model": shop.identity["model"],
            "trigger": hashlib.sha256(stamped.cpu().numpy().tobytes()).hexdigest(),
            "labels": self.relabel(torch.arange(self.spec.num_classes)).tolist(),
            "poisoned_share": self.share(shop.train.labels),
            "clean_share": self.clean_share,
            "dat": self.dat,
            "training": self.first.settings,
            "callbacks": [repr(callback) for callback in self.callbacks],
        }

        def make(folder: Path) -> dict[str, Any]:
            callbacks = deepcopy(self.callbacks)
            shop.engine.fit(stage, task, "first stage", callbacks, folder)
            wanted = clean.take(self.counted(clean.labels).nonzero().flatten())
            triggered = ImageSet.of(self.stamp(wanted.images), self.relabel(wanted.labels))
            return {
                "accuracy": shop.engine.accuracy(model, clean),
                "asr": shop.engine.accuracy(model, triggered),
                **reported(callbacks),
            }

        facts = shop.make_once(self, "sbl_first_stage", model, settings, make).facts
        self.details |= {f"first_stage_{name}": value for name, value in facts.items()}
