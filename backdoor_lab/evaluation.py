"""One way to judge a model: clean test images, triggered test images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from backdoor_lab.attacks import Attack
from backdoor_lab.datasets import ImageSet
from backdoor_lab.metrics import (
    AttackSuccessRate,
    CleanAccuracy,
    RobustAccuracy,
    defense_effectiveness,
)
from backdoor_lab.training import Engine


@dataclass(frozen=True)
class Examination:
    """What models are asked: the clean test set, and the triggered images that count.

    `triggered` (M images) carries the true labels; `wanted` (M,) is what the attacker wants of
    them, `counted` (M,) their positions in the test set.
    """

    clean: ImageSet
    triggered: ImageSet
    wanted: Tensor
    counted: Tensor
    classes: tuple[str, ...]

    @classmethod
    def of(cls, test: ImageSet, attack: Attack) -> Examination:
        """Trigger, in 8 bits, every test image that counts."""
        positions = attack.counted(test.labels).nonzero().flatten()
        clean = test.take(positions)
        triggered = ImageSet.of(attack.stamp(clean.images), clean.labels)
        wanted = attack.relabel(clean.labels)
        return cls(test, triggered, wanted, positions, attack.spec.classes)


@dataclass(frozen=True)
class Scores:
    """Fractions in [0, 1]; None where no triggered image counts."""

    acc: float
    asr: float | None
    ra: float | None

    def der(self, before: Scores) -> float | None:
        """DER against the victim's scores."""
        if self.asr is None or before.asr is None:
            return None
        return defense_effectiveness(before.acc, self.acc, before.asr, self.asr)


def evaluate(model: nn.Module, exam: Examination, engine: Engine) -> Scores:
    """ACC over all clean test images; ASR and RA over the triggered ones that count."""
    acc = CleanAccuracy().to(engine.device)
    acc.update(engine.predict(model, exam.clean), exam.clean.labels.to(engine.device))
    if not len(exam.triggered):
        return Scores(acc.compute().item(), None, None)
    predicted = engine.predict(model, exam.triggered)
    asr = AttackSuccessRate().to(engine.device)
    ra = RobustAccuracy().to(engine.device)
    asr.update(predicted, exam.wanted.to(engine.device))
    ra.update(predicted, exam.triggered.labels.to(engine.device))
    return Scores(acc.compute().item(), asr.compute().item(), ra.compute().item())
