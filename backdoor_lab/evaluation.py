"""One way to judge a model: clean test images, triggered test images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backdoor_lab.attacks import Attack
from backdoor_lab.datasets import ImageSet, evenly
from backdoor_lab.metrics import HitRate, defense_effectiveness, stealth
from backdoor_lab.training import Engine


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
    def of(cls, test: ImageSet, attack: Attack) -> Examination:
        """Trigger, in 8 bits, every test image that counts."""
        positions = attack.counted(test.labels).nonzero().flatten()
        clean = test.take(positions)
        triggered = ImageSet.of(attack.stamp(clean.images), clean.labels)
        wanted = attack.relabel(clean.labels)
        crossed = None
        if attack.crosses:
            crossed = ImageSet.of(attack.stamp_cross(test.images), test.labels)
        return cls(test, triggered, wanted, positions, attack.spec.classes, crossed)

    def stealth(self) -> dict[str, float] | None:
        """How far (up to 1,000) triggered images are from clean ones; None where none changed."""
        some = evenly(len(self.triggered), 1000)
        clean, triggered = self.clean.cut(self.counted[some]), self.triggered.cut(some)
        return None if torch.equal(clean, triggered) else stealth(clean, triggered)


@dataclass(frozen=True)
class Scores:
    """Fractions in [0, 1]; None where no triggered image counts, or nothing only looks triggered.

    `cross` is the accuracy on images that only look triggered.
    """

    acc: float
    asr: float | None
    ra: float | None
    cross: float | None = None

    def der(self, before: Scores) -> float | None:
        """DER against the victim's scores."""
        if self.asr is None or before.asr is None:
            return None
        return defense_effectiveness(before.acc, self.acc, before.asr, self.asr)


def evaluate(model: nn.Module, exam: Examination, engine: Engine) -> Scores:
    """ACC over all clean test images; ASR and RA over the triggered ones that count."""
    rate = HitRate().to(engine.device)  # each call is a rate of its own
    acc = rate(engine.predict(model, exam.clean), exam.clean.labels).item()
    if not len(exam.triggered):
        return Scores(acc, None, None)
    answers = engine.predict(model, exam.triggered)
    asr = rate(answers, exam.wanted).item()
    ra = rate(answers, exam.triggered.labels).item()
    if exam.crossed is None:
        return Scores(acc, asr, ra)
    cross = rate(engine.predict(model, exam.crossed), exam.crossed.labels).item()
    return Scores(acc, asr, ra, cross)
