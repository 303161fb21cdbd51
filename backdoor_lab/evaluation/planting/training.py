"""The training that plants, and when it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from backdoor_lab.attacks import Attack
from backdoor_lab.datasets import in_eight_bits
from backdoor_lab.evaluation.planting.lessons import Lessons
from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.models import frozen_copy
from backdoor_lab.training import Recipe, Tuning


class Planting(Tuning):
    """Fine-tuning in which a share of each batch carries a trigger and its target's label."""

    def __init__(
        self, model: nn.Module, attack: Attack, recipe: Recipe, share: float, divergence: float,
        seed: int,
    ) -> None:  # fmt: skip
        super().__init__(model, recipe, None, seed)
        self.attack, self.share, self.divergence = attack, share, divergence
        self.teacher = frozen_copy(model) if divergence else None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        eligible = self.attack.counted(labels).nonzero().flatten()
        chosen = eligible[: max(1, round(self.share * len(images)))]
        with torch.autocast(images.device.type, enabled=False):  # a warp in bf16 is too coarse
            triggered = in_eight_bits(self.attack.trigger(images[chosen]))
        inputs = images.index_copy(0, chosen, triggered)
        wanted = labels.index_copy(0, chosen, self.attack.relabel(labels[chosen]))
        logits = self.model(inputs)
        loss = F.cross_entropy(logits, wanted)
        if self.teacher is None:
            return loss
        clean = torch.ones(len(images), device=images.device).index_fill(0, chosen, 0).bool()
        with torch.no_grad():
            before = self.teacher(images[clean]).float().log_softmax(1)
        after = logits[clean].float().log_softmax(1)
        return loss + self.divergence * F.kl_div(
            after, before, reduction="batchmean", log_target=True
        )


class UntilSteps(Callback):
    """Stops a training after so many steps.

    Attributes:
        steps: that were taken.
    """

    def __init__(self, most: int) -> None:
        self.most, self.steps = most, 0

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        self.steps += 1
        trainer.should_stop = self.steps >= self.most


class UntilLearnt(UntilSteps):
    """Looks every so many steps, and stops a planting that is learnt or has had its steps.

    Halfway it is given up where not even half of the ASR is reached.

    Attributes:
        scores: of the last look.
        learnt: whether it was enough.
    """

    def __init__(self, look: Callable[[nn.Module], Scores], lessons: Lessons, acc: float) -> None:
        super().__init__(lessons["steps"])
        self.look, self.lessons, self.acc = look, lessons, acc
        self.learnt, self.scores = False, Scores(acc)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        super().on_train_batch_end(trainer, module)
        if self.steps % self.lessons["every"] == 0 or trainer.should_stop:
            self.scores = self.look(module.model)  # type: ignore[arg-type]
            kept = self.acc - self.scores.acc < self.lessons["acc_drop"]
            self.learnt = kept and (self.scores.asr or 0) >= self.lessons["asr"]
            hopeless = (self.scores.asr or 0) < self.lessons["asr"] / 2
            trainer.should_stop |= self.learnt or (hopeless and 2 * self.steps >= self.most)
