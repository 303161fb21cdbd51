"""Whether a model's outputs stand in the order of the data's classes, told by its answers."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

LEAST = 3  # images of a class, to tell where its answers went


def meant_order(answers: Tensor, labels: Tensor, classes: int) -> list[int] | None:
    """The class that each output means, where most answers say another order than the given one.

    Of every class that moves, more than half of the images must be answered as one other class,
    and the classes must change places among each other: a model that is merely bad, or that takes
    much for one class, has no other order.

    Args:
        answers: outputs (N,) that were the highest.
        labels: (N,) true classes.
        classes: their number.

    Returns:
        For each output the class that it means, or None.
    """
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    counts.index_put_((labels.cpu(), answers.cpu()), torch.ones(1, dtype=torch.int64), True)
    _, chosen = linear_sum_assignment(-counts.numpy())
    outputs = torch.from_numpy(chosen)
    moved = (outputs != torch.arange(classes)).nonzero().flatten()
    totals, agreeing = counts[moved].sum(1), counts[moved, outputs[moved]]
    if not len(moved) or (totals < LEAST).any() or (2 * agreeing <= totals).any():
        return None
    meant = torch.empty(classes, dtype=torch.int64)
    meant[outputs] = torch.arange(classes)
    return meant.tolist()
