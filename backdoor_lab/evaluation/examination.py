"""One way to judge a model: clean test images, triggered test images."""

from __future__ import annotations

from dataclasses import dataclass

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
    look triggered, where the attack has such.
    """

    clean: ImageSet
    triggered: ImageSet
    wanted: Tensor
    counted: Tensor
    classes: tuple[str, ...]
    crossed: ImageSet | None = None

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
        return cls(test, triggered, wanted, positions, classes, crossed)

    def stealth(self) -> dict[str, float] | None:
        """How far (up to 1,000) triggered images are from clean ones; None where none changed."""
        some = evenly(len(self.triggered), 1000)
        clean, triggered = self.clean.cut(self.counted[some]), self.triggered.cut(some)
        return None if torch.equal(clean, triggered) else stealth(clean, triggered)


def evaluate(model: nn.Module, exam: Examination, engine: Engine) -> Scores:
    """ACC over all clean test images; ASR and RA over the triggered ones that count."""
    acc = accuracy(engine.predict(model, exam.clean), exam.clean.labels)
    if not len(exam.triggered):
        return Scores(acc)
    answers = engine.predict(model, exam.triggered)
    asr = accuracy(answers, exam.wanted)
    ra = accuracy(answers, exam.triggered.labels)
    if exam.crossed is None:
        return Scores(acc, asr, ra)
    cross = accuracy(engine.predict(model, exam.crossed), exam.crossed.labels)
    return Scores(acc, asr, ra, cross)
