"""The rates of a backdoored model, and what a defense was worth."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class HitRate(Metric):
    """Share of images that get a given class, over all batches; nan where there is no image.

    On clean images and their labels it is ACC; on triggered ones ASR with the classes that the
    attacker wants, RA with the true ones.

    >>> HitRate()(torch.eye(4), torch.tensor([0, 1, 2, 2])).item()
    0.75
    """

    full_state_update = False
    hits: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, wanted: Tensor) -> None:
        """Add a batch of logits (N, classes) and the classes (N,) to compare with."""
        self.hits += (logits.argmax(1) == wanted.to(logits.device)).sum()
        self.total += len(wanted)

    def compute(self) -> Tensor:
        """The rate over all batches so far."""
        return self.hits.double() / self.total


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
