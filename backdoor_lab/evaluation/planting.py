"""Known backdoors, planted into copies of a model by fine-tuning, as controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import ceil
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import TypedDict

from backdoor_lab.attacks import Attack
from backdoor_lab.datasets import ImageSet, in_eight_bits
from backdoor_lab.errors import DivergedError
from backdoor_lab.evaluation.examination import Examination, evaluate
from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.models import frozen_copy
from backdoor_lab.training import Engine, Recipe, Tuning, constant, sgd
from backdoor_lab.validation import Count, Fraction, Momentum, NonNegative, Positive, Rate

Maker = Callable[..., Attack]


class Lessons(TypedDict):
    """How backdoors are planted.

    Attributes:
        share: of each batch that is triggered.
        rates: learning rates, tried from the first on.
        divergence: weight of KL(victim || copy) on the clean part, after the first round.
        steps: on each rung, at most.
        every: steps between two looks.
        asr: learnt is what reaches this,
        acc_drop: and loses less than this of the accuracy.
        batch_size: images a step.
        momentum: of SGD.
        weight_decay: of SGD.
    """

    share: Rate
    rates: Annotated[list[Positive], Field(min_length=1)]
    divergence: NonNegative
    steps: Count
    every: Count
    asr: Rate
    acc_drop: Fraction
    batch_size: Count
    momentum: Momentum
    weight_decay: NonNegative


@dataclass(frozen=True)
class Rung:
    """A try: which strength of the trigger (from 0), which rate, which weight of the KL."""

    strength: int
    lr: float
    divergence: float


def ladder(lessons: Lessons, strengths: int) -> Iterator[Rung]:
    """The rates, again with the KL, and again with each stronger trigger."""
    rounds = [(0, 0.0), *((strength, lessons["divergence"]) for strength in range(strengths))]
    for strength, divergence in rounds:
        for lr in lessons["rates"]:
            yield Rung(strength, lr, divergence)


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
            trainer.should_stop |= self.learnt


@dataclass(frozen=True)
class Plant:
    """A copy of a model into which a backdoor was planted, or could not be.

    Attributes:
        model: the copy, after the last rung.
        exam: with the planted trigger.
        rung: the last one.
        scores: of the copy.
        learnt: whether it counts.
        tried: every rung, with its steps and scores.
    """

    model: nn.Module
    exam: Examination
    rung: Rung
    scores: Scores
    learnt: bool
    tried: list[dict[str, Any]]


@dataclass(frozen=True)
class Gardener:
    """What plants are made with.

    Attributes:
        data: images with labels that are planted with.
        exam_of: an examination with the trigger of an attack.
        engine: trains.
        lessons: how.
        acc: of the model before.
        seed: of the order.
    """

    data: ImageSet
    exam_of: Callable[[Attack], Examination]
    engine: Engine
    lessons: Lessons
    acc: float
    seed: int

    def plant(self, model: nn.Module, strengths: Sequence[Attack]) -> Plant:
        """Goes up the ladder until a copy of `model` has learnt one of the triggers."""
        tried: list[dict[str, Any]] = []
        for rung in ladder(self.lessons, len(strengths)):
            attack = strengths[rung.strength].to(self.engine.device)
            exam = self.exam_of(attack)
            copy, until = deepcopy(model).requires_grad_(True), self.watcher(exam)
            planting = self.planting(copy, attack, rung)
            try:
                self.engine.fit(planting, self.data, "planting", [until])
            except DivergedError:
                until.learnt = False
            facts = {"acc": until.scores.acc, "asr": until.scores.asr}
            tried.append({**vars(rung), "steps": until.steps, **facts, "learnt": until.learnt})
            if until.learnt:
                break
        return Plant(copy.eval(), exam, rung, until.scores, until.learnt, tried)

    def watcher(self, exam: Examination) -> UntilLearnt:
        """Looks at a copy under the eyes of an examination."""
        return UntilLearnt(lambda copy: evaluate(copy, exam, self.engine), self.lessons, self.acc)

    def planting(self, copy: nn.Module, attack: Attack, rung: Rung) -> Planting:
        """The training of one rung."""
        options = (self.recipe(rung), self.lessons["share"], rung.divergence, self.seed)
        return Planting(copy, attack, *options)

    def recipe(self, rung: Rung) -> Recipe:
        """Epochs enough for the steps."""
        told = self.lessons
        batch = min(told["batch_size"], len(self.data))
        descent = sgd(told["momentum"], told["weight_decay"])
        epochs = ceil(told["steps"] / (len(self.data) // batch))
        return Recipe(epochs, batch, rung.lr, descent, constant, drop_last=True)

    def sham(self, model: nn.Module, like: Plant) -> nn.Module:
        """A copy of `model` after the steps of a plant without its trigger."""
        copy, steps = deepcopy(model).requires_grad_(True), like.tried[-1]["steps"]
        tuning = Tuning(copy, self.recipe(like.rung), None, self.seed)
        self.engine.fit(tuning, self.data, "sham", [UntilSteps(steps)])
        return copy.eval()
