"""The rates of a model, and what a defense was worth. Loads without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scores:
    """Fractions in [0, 1]; None where no triggered image counts, or no trigger is known.

    Attributes:
        acc: share of all clean test images that get their true class.
        asr: share of triggered ones that get the attacker's class.
        ra: share of the same ones that get their true class.
        cross: accuracy on images that only look triggered.
        der: defense effectiveness, of a purified model alone.
        acc_target: accuracy on clean images of the target class; None where there is no one class.
        acc_worst: accuracy on clean images of the class that fares worst.
    """

    acc: float
    asr: float | None = None
    ra: float | None = None
    cross: float | None = None
    der: float | None = None
    acc_target: float | None = None
    acc_worst: float | None = None


def defense_effectiveness(before: Scores, after: Scores) -> float | None:
    """DER: 1/2 [max(0, ASR before - after) - max(0, ACC before - after) + 1].

    1 is a perfect defense, 1/2 one that changes nothing (BackdoorBench; Zhu et al., ICCV 2023).

    >>> round(defense_effectiveness(Scores(0.9144, 0.9441), Scores(0.9056, 0.0147)), 4)
    0.9603
    """
    if before.asr is None or after.asr is None:
        return None
    asr_drop = max(0.0, before.asr - after.asr)
    acc_drop = max(0.0, before.acc - after.acc)
    return (asr_drop - acc_drop + 1) / 2
