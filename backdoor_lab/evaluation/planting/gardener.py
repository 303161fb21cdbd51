"""Plants known backdoors in copies of a model, rung by rung."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from backdoor_lab.attacks import Attack
from backdoor_lab.datasets import ImageSet, evenly
from backdoor_lab.errors import DivergedError, spelled
from backdoor_lab.evaluation.examination import Examination, evaluate
from backdoor_lab.evaluation.planting.lessons import Lessons, Rung, ladder
from backdoor_lab.evaluation.planting.training import Planting, UntilLearnt, UntilSteps
from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.models import Classifier
from backdoor_lab.training import Engine, Recipe, Tuning, constant, sgd

log = logging.getLogger(__name__)
LOOKED_AT = 500  # clean and triggered images while planting; the scores are of all


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

    model: Classifier
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
        seed: of the order.
    """

    data: ImageSet
    exam_of: Callable[[Attack], Examination]
    engine: Engine
    lessons: Lessons
    seed: int

    def plant(self, model: Classifier, strengths: Sequence[Attack]) -> Plant:
        """Goes up the ladder until a copy of `model` has learnt one of the triggers."""
        tried: list[dict[str, Any]] = []
        for rung in ladder(self.lessons, len(strengths)):
            attack = strengths[rung.strength].to(self.engine.device)
            exam = self.exam_of(attack)
            copy, until = deepcopy(model).requires_grad_(True), self.watcher(model, exam)
            planting = self.planting(copy, attack, rung)
            try:
                self.engine.fit(planting, self.data, "planting", [until])
                scores = evaluate(copy, exam, self.engine)
            except DivergedError:
                until.learnt, scores = False, Scores(0.0, 0.0)
            facts = {"acc": scores.acc, "asr": scores.asr}
            tried.append({**vars(rung), "steps": until.steps, **facts, "learnt": until.learnt})
            log.info("planting %s: %s", spelled(attack), json.dumps(tried[-1]))
            if until.learnt:
                break
        return Plant(copy.eval(), exam, rung, scores, until.learnt, tried)

    def watcher(self, model: Classifier, exam: Examination) -> UntilLearnt:
        """Looks at a copy by some of the images, on which `model` has its own accuracy."""
        some = evenly(len(exam.triggered), LOOKED_AT)
        part = replace(
            exam,
            clean=exam.clean.take(evenly(len(exam.clean), LOOKED_AT)),
            triggered=exam.triggered.take(some),
            wanted=exam.wanted[some],
            crossed=None,
        )
        acc = self.engine.accuracy(model, part.clean)
        return UntilLearnt(lambda copy: evaluate(copy, part, self.engine), self.lessons, acc)

    def planting(self, copy: Classifier, attack: Attack, rung: Rung) -> Planting:
        """The training of one rung."""
        options = (self.recipe(rung), self.lessons["share"], rung.divergence, self.seed)
        return Planting(copy, attack, *options)

    def recipe(self, rung: Rung) -> Recipe:
        """Epochs enough for the steps."""
        lessons = self.lessons
        batch = min(lessons["batch_size"], len(self.data))
        descent = sgd(lessons["momentum"], lessons["weight_decay"])
        epochs = ceil(lessons["steps"] / (len(self.data) // batch))
        return Recipe(epochs, batch, rung.lr, descent, constant, drop_last=True)

    def sham(self, model: Classifier, like: Plant) -> Classifier:
        """A copy of `model` after the steps of a plant without its trigger."""
        copy, steps = deepcopy(model).requires_grad_(True), like.tried[-1]["steps"]
        tuning = Tuning(copy, self.recipe(like.rung), None, self.seed)
        self.engine.fit(tuning, self.data, "sham", [UntilSteps(steps)])
        return copy.eval()
