"""ASR after re-learning: whether a defense has removed a backdoor or only hidden it.

Paper     Min et al., "Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor
          Defense", NeurIPS 2024, arXiv:2410.09838
Differs   images as they are, where the reference trains on one augmented view that never changes;
          images of other classes carry the trigger of the test and are labelled as the target, for
          clean-label attacks too, where the reference takes the attack's own poisoned images;
          1,000 images of whatever data set, where it takes 2% (CIFAR-10: 1,000), so that small
          sets are tuned on most of what they have; the end of the steps alone is judged
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import nn

from backdoor_lab.attacks import Attack
from backdoor_lab.datasets import Data, ImageSet
from backdoor_lab.errors import ConfigError
from backdoor_lab.evaluation.examination import Examination, evaluate
from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import Engine, Recipe, Tuning, constant, sgd
from backdoor_lab.validation import Count, Index, Momentum, Positive, validated


class Relearning:
    """Tunes each model on training images of which `relearn` carry trigger and target label.

    What it says of a purified model is told by the rows beside it: a `clean` model learns a plain
    trigger from nothing, and an `exact` one is the victim tuned on triggered images with their true
    labels, the paper's yardstick, which a longer purification may pass.

    Args:
        relearn: triggered images; 0: none, tuning alone; None: nothing is asked.
        images: images of the training split in all, fewer where it has fewer.
        epochs: passes over them.
        lr: of SGD, constant.
        momentum: of SGD.
        batch_size: images a step.
    """

    @validated
    def __init__(
        self,
        relearn: Index | None,
        images: Count,
        epochs: Count,
        lr: Positive,
        momentum: Momentum,
        batch_size: Count,
    ) -> None:
        self.relearn, self.images = relearn, images
        self.recipe = Recipe(epochs, batch_size, lr, sgd(momentum, weight_decay=0), constant)

    @property
    def asked(self) -> bool:
        """Whether there is anything to do."""
        return self.relearn is not None

    def check(self, attack: Attack, training_known: bool = True) -> None:
        """Refuse more triggered images than there are images, and an attack without a trigger.

        Args:
            attack: of the run.
            training_known: whether it is known what the victim was trained on, and how.

        Raises:
            ConfigError: names the key, what was given and what is allowed.
        """
        if self.asked and not training_known:
            raise ConfigError(
                f"evaluation.relearn={self.relearn} tunes on training images, beside a clean model "
                "that is trained alike, but nobody knows how this victim was trained; allowed: null"
            )
        if self.asked and attack.harmless:
            raise ConfigError(
                f"evaluation.relearn={self.relearn}, but this attack leaves no backdoor to be "
                "learnt again; allowed: null"
            )
        if self.relearn is not None and self.relearn > self.images:
            raise ConfigError(
                f"evaluation.relearn={self.relearn} is more than evaluation.images={self.images}; "
                "allowed: up to that"
            )

    def of(
        self,
        models: Mapping[str, nn.Module],
        data: Data,
        attack: Attack | None,
        exam: Examination,
        engine: Engine,
        seed: int,
    ) -> dict[str, Scores]:
        """Scores of each model after the same tuning; `victim` also gives the row `exact`.

        Raises:
            ConfigError: nobody knows the trigger.
        """
        if attack is None:
            raise ConfigError(
                f"evaluation.relearn={self.relearn}, but nobody knows this victim's trigger; "
                "allowed: null"
            )
        lesson, truth = self.lessons(data.train, attack, seed)
        exact = self.taught(models["victim"], truth, engine, seed, "exact")
        return {
            name: evaluate(self.taught(model, lesson, engine, seed, name), exam, engine)
            for name, model in {**models, "exact": exact}.items()
        }

    def lessons(self, train: ImageSet, attack: Attack, seed: int) -> tuple[ImageSet, ImageSet]:
        """What re-teaches the backdoor, and what unteaches it: triggers under true labels."""
        draw = generator_for(seed, "relearning")
        some = train.take(torch.randperm(len(train), generator=draw)[: self.images])
        eligible = attack.counted(some.labels).nonzero().flatten()
        chosen = eligible[: self.relearn]
        triggered = attack.stamp(some.cut(chosen))
        lesson = some.overwrite(chosen, triggered, attack.relabel(some.labels[chosen]))
        truth = some.overwrite(eligible, attack.stamp(some.cut(eligible)), some.labels[eligible])
        return lesson, truth

    def taught(
        self, model: nn.Module, lesson: ImageSet, engine: Engine, seed: int, name: str
    ) -> nn.Module:
        """A copy of `model` tuned on `lesson`, all parameters, BatchNorm by batch."""
        copy = deepcopy(model).requires_grad_(True)
        engine.fit(Tuning(copy, self.recipe, None, seed), lesson, f"relearning/{name}")
        return copy
