"""ACC, ASR, RA and DER, as functions and as torchmetrics that sum up batches.

All are fractions in [0, 1]. `predicted` holds classes (N,) or logits (N, classes); `counted` (N,)
is a boolean mask of the images that count (all where it is None), the caller's choice: papers
differ in whether images of the target class count for ASR. Where no image counts, a rate is nan.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


def accuracy(predicted: Tensor, labels: Tensor, counted: Tensor | None = None) -> float:
    """ACC: share of clean images that get their true class.

    >>> accuracy(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 3]))
    0.75
    """
    return _share(*_hits(predicted, labels, counted)).item()


def attack_success_rate(predicted: Tensor, wanted: Tensor, counted: Tensor | None = None) -> float:
    """ASR: share of triggered images that get the class the attacker wants.

    >>> labels = torch.tensor([0, 1, 2, 3])
    >>> attack_success_rate(torch.tensor([0, 0, 0, 3]), torch.zeros(4), counted=labels != 0)
    0.6666666666666666
    """
    return _share(*_hits(predicted, wanted, counted)).item()


def robust_accuracy(predicted: Tensor, labels: Tensor, counted: Tensor | None = None) -> float:
    """RA: share of triggered images that still get their true class.

    >>> robust_accuracy(torch.tensor([0, 0, 0, 3]), torch.tensor([0, 1, 2, 3]))
    0.5
    """
    return _share(*_hits(predicted, labels, counted)).item()


def defense_effectiveness(
    acc_before: float, acc_after: float, asr_before: float, asr_after: float
) -> float:
    """DER: 1/2 [max(0, ASR before - after) - max(0, ACC before - after) + 1].

    1 is a perfect defense, 1/2 one that changes nothing (BackdoorBench; Zhu et al., ICCV 2023).

    >>> round(defense_effectiveness(0.9144, 0.9056, 0.9441, 0.0147), 4)
    0.9603
    """
    asr_drop = max(0.0, asr_before - asr_after)
    acc_drop = max(0.0, acc_before - acc_after)
    return (asr_drop - acc_drop + 1) / 2


class _Rate(Metric):
    """Hits over images that count; both sums stay on the device until `compute`."""

    is_differentiable = False
    full_state_update = False
    hits: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, labels: Tensor, counted: Tensor | None = None) -> None:
        """Add a batch: classes (N,) or logits (N, classes), and the classes to compare with."""
        hits, total = _hits(predicted, labels, counted)
        self.hits += hits
        self.total += total

    def compute(self) -> Tensor:
        """The rate over all batches so far."""
        return _share(self.hits, self.total)


class CleanAccuracy(_Rate):
    """`accuracy` over batches of clean images and their labels."""

    higher_is_better = True


class AttackSuccessRate(_Rate):
    """`attack_success_rate` over batches of triggered images and the classes wanted."""

    higher_is_better = False


class RobustAccuracy(_Rate):
    """`robust_accuracy` over batches of triggered images and their true labels."""

    higher_is_better = True


def _hits(predicted: Tensor, labels: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """(matches among the images that count, number of those)."""
    classes = predicted.argmax(1) if predicted.ndim == 2 else predicted
    counted = torch.ones_like(classes, dtype=torch.bool) if counted is None else counted
    return ((classes == labels) & counted).sum(), counted.sum()


def _share(hits: Tensor, total: Tensor) -> Tensor:
    return hits.double() / total
