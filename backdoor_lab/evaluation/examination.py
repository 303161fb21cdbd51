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

    `triggered` (M images) carries the true labels; `wanted` (M,) is what the attacker wants of
    them, `counted` (M,) their positions in the test set. `crossed` are all test images as they only
    look triggered, where the attack has such; `target` is the class that all are to be taken for.
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
        positions = attack.counted(test.labels).nonzero().flatten()
        clean = test.take(positions)
        triggered = ImageSet.of(attack.stamp(clean.images), clean.labels)
        wanted = attack.relabel(clean.labels)
        crossed = None
        if attack.crosses:
            crossed = ImageSet.of(attack.stamp_cross(test.images), test.labels)
        target = None if attack.all_to_all or attack.harmless else attack.target
        return cls(test, triggered, wanted, positions, classes, crossed, target)

    def stealth(self) -> dict[str, float] | None:
        """How far (up to 1,000) triggered images are from clean ones; None where none changed."""
        some = evenly(len(self.triggered), 1000)
        clean, triggered = self.clean.cut(self.counted[some]), self.triggered.cut(some)
        return None if torch.equal(clean, triggered) else stealth(clean, triggered)


def evaluate(model: nn.Module, exam: Examination, engine: Engine) -> Scores:
    """ACC over all clean test images; ASR and RA over the triggered ones that count."""
    logits, labels = engine.predict(model, exam.clean), exam.clean.labels
    by_class = class_accuracies(logits, labels)
    scores = Scores(
        accuracy(logits, labels),
        acc_target=None if exam.target is None else by_class.get(exam.target),
        acc_worst=min(by_class.values()),
    )
    if not len(exam.triggered):
        return scores
    answers = engine.predict(model, exam.triggered)
    asr = accuracy(answers, exam.wanted)
    ra = accuracy(answers, exam.triggered.labels)
    cross = None
    if exam.crossed is not None:
        cross = accuracy(engine.predict(model, exam.crossed), exam.crossed.labels)
    return replace(scores, asr=asr, ra=ra, cross=cross)


def class_accuracies(logits: Tensor, labels: Tensor) -> dict[int, float]:
    """Accuracy of logits (N, classes) on each class that `labels` (N,) hold."""
    present = labels.unique()
    return {int(c): accuracy(logits[labels == c], labels[labels == c]) for c in present}
