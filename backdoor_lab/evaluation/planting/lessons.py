"""How a backdoor is planted, and the ladder of tries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from backdoor_lab.validation import Count, Fraction, Momentum, NonNegative, Positive, Rate


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
