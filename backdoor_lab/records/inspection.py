"""What an inspection leaves in a record: evidence, changes, planted controls. Without torch."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from backdoor_lab.evaluation.scores import Scores

Verdict = Literal["flagged", "not flagged", "no verdict", "not applicable"]


@dataclass(frozen=True)
class Rule:
    """A statistic, and from where on it counts as a sign.

    Attributes:
        name: what is compared, such as `MAD index`.
        value: of the statistic.
        sign: `>` or `<=`: on which side of the threshold there is a sign.
        threshold: as told.
        flagged: whether `value` lies on that side.
        classes: to which the sign points.
    """

    name: str
    value: float
    sign: Literal[">", "<="]
    threshold: float
    flagged: bool
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What one detector found on one model; it is never that a model is clean.

    Attributes:
        verdict: by the calibrated rule; `no verdict` where the method looked and has no such rule.
        cannot_see: backdoors that the method passes over by nature.
        reason: why there is no verdict.
        scores: by class.
        foremost: the class that stands out most, whether that is a sign or not.
        scalar: the one number that models are compared by; the higher, the more suspicious.
        reference: the rule of the paper or of its code.
        calibrated: the rule whose errors on models without a backdoor are known.
        seconds: that it took.
        images: that passed through the model, backward passes not counted.
        details: what else the method has to say.
    """

    verdict: Verdict
    cannot_see: str
    reason: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    foremost: str | None = None
    scalar: float | None = None
    reference: Rule | None = None
    calibrated: Rule | None = None
    seconds: float = 0.0
    images: int = 0
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def suspected(self) -> tuple[str, ...]:
        """The classes to which the calibrated rule points."""
        return self.calibrated.classes if self.calibrated else ()


@dataclass(frozen=True)
class Change:
    """What became of a model, on the clean test images; pairs are before and after.

    Attributes:
        agreement: share of the images that get the same answer.
        divergence: mean KL divergence of the answers, in nats.
        drift: ||after - before|| / ||before|| over all parameters; None where they are others.
        calibration: expected calibration error, 15 bins.
        by_class: accuracy on the images of each class.
    """

    agreement: float
    divergence: float
    drift: float | None
    calibration: tuple[float, float]
    by_class: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Planted:
    """A known backdoor in a copy of the victim, before and after the same purification.

    Attributes:
        learnt: whether the copy learnt it without losing accuracy; if not, nothing can be told.
        target: the class of its trigger.
        settings: the rung of the ladder that did it, or the last one.
        images: that it was planted with.
        tested: triggered images behind ASR.
        unplanted: ASR of that trigger on the victim itself.
        before: scores of the copy.
        after: of the purified copy; None where there is no defense, or nothing was learnt.
        interval: of the ASR after, or else before: Wilson's at 95%.
        tried: every rung, with its steps, ACC and ASR.
    """

    learnt: bool
    target: str
    settings: dict[str, Any]
    images: int
    tested: int
    unplanted: float | None
    before: Scores
    after: Scores | None = None
    interval: tuple[float, float] | None = None
    tried: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Inspection:
    """All that was found on a victim and on what was made of it.

    Attributes:
        evidence: by model (`victim`, `purified`, `sham`, a plant), then by detector.
        changes: of `purified` and `sham` against the victim.
        sham: scores of the victim after plain fine-tuning of the same effort.
        planted: controls, by the attack that was planted.
    """

    evidence: dict[str, dict[str, Evidence]] = field(default_factory=dict)
    changes: dict[str, Change] = field(default_factory=dict)
    sham: Scores | None = None
    planted: dict[str, Planted] = field(default_factory=dict)
