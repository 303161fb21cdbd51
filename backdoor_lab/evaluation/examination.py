"""One way to judge a model: clean test images, triggered test images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from backdoor_lab.attacks import Attack
from backdoor_lab.datasets import Data, ImageSet, evenly
from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.evaluation.stealth import stealth
from backdoor_lab.training import Engine, accuracy


@dataclass(frozen=True)
class Examination:
    """What models are asked: the clean test set, and the triggered images that count.

    `triggered` (M images) carries the true labels (-1: nobody knows it); `wanted` (M,) is what the
    attacker wants of them. `counted` (M,) are their positions in the test set; it is empty where
    they come from elsewhere, as those of a user's folder. `crossed` are all test images as they
    only look triggered, where the attack has such. `target` is the class that the attacker wants of
    all triggered images, if it is one.
    """

    clean: ImageSet
    triggered: ImageSet
    wanted: Tensor
    counted: Tensor
    classes: tuple[str, ...]
    crossed: ImageSet | None = None
    target: int | None = None

    @classmethod
    def of(cls, data: Data, attack: Attack | None) -> Examination:
        """Trigger, in 8 bits, every test image that counts; none where no trigger is known."""
        test, classes = data.test, data.spec.classes
        if attack is None:
            nothing = torch.empty(0, dtype=torch.int64)
            return cls(test, test.take(nothing), nothing, nothing, classes)
        triggered, positions = attack.examples(test)
        wanted = attack.relabel(triggered.labels)
        crossed = None
        if attack.crosses:
            crossed = ImageSet.of(attack.stamp_cross(test.images), test.labels)
        target = attack.target if len(triggered) and not attack.all_to_all else None
        return cls(test, triggered, wanted, positions, classes, crossed, target)

    def stealth(self) -> dict[str, float] | None:
        """How far (up to 1,000) triggered images are from clean ones; None where none changed."""
        some = evenly(len(self.counted), 1000)
        clean, triggered = self.clean.cut(self.counted[some]), self.triggered.cut(some)
        return None if torch.equal(clean, triggered) else stealth(clean, triggered)


def evaluate(model: nn.Module, exam: Examination, engine: Engine) -> Scores:
    """ACC over the clean test images and by class; ASR and RA over the triggered that count."""
    answers = engine.predict(model, exam.clean)
    acc = accuracy(answers, exam.clean.labels)
    each = class_accuracies(answers, exam.clean.labels)
    of_target = None if exam.target is None else each.get(exam.target)
    clean = Scores(acc, acc_target=of_target, acc_worst=min(each.values()))
    if not len(exam.triggered):
        return clean
    answers = engine.predict(model, exam.triggered)
    asr = accuracy(answers, exam.wanted)
    known = bool((exam.triggered.labels >= 0).all())
    ra = accuracy(answers, exam.triggered.labels) if known else None
    if exam.crossed is None:
        return replace(clean, asr=asr, ra=ra)
    cross = accuracy(engine.predict(model, exam.crossed), exam.crossed.labels)
    return replace(clean, asr=asr, ra=ra, cross=cross)


def class_accuracies(logits: Tensor, labels: Tensor) -> dict[int, float]:
    """Accuracy of logits (N, C) on the images of each class among `labels` (N,)."""
    labels = labels.cpu()
    right = (logits.argmax(1).cpu() == labels).double()
    return {int(label): right[labels == label].mean().item() for label in labels.unique()}
