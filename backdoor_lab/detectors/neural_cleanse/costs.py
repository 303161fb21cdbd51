"""How much a mask's size weighs beside its success, for each class on its own."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import TypedDict

from backdoor_lab.validation import Count, Positive, Ratio


class CostRule(TypedDict):
    """When the weight of the size changes.

    Attributes:
        first: the weight, once a class has succeeded `patience` times in a row; 0 before.
        patience: successes in a row after which it is multiplied, failures after which divided.
        factor: by which it is multiplied; it is divided by `factor` ** 1.5.
    """

    first: Positive
    patience: Count
    factor: Ratio


class Costs:
    """The weights (T,) of T classes, and who has been through both directions.

    Attributes:
        value: the weights.
    """

    def __init__(self, count: int, rule: CostRule) -> None:
        self.rule = rule
        self.value = torch.zeros(count)
        self.ready, self.ups, self.downs = (torch.zeros(count).long() for _ in range(3))
        self.rose, self.fell = (torch.zeros(count).bool() for _ in range(2))

    def update(self, success: Tensor) -> None:
        """Take note of which classes (T,) have succeeded in the pass that is over."""
        patience, factor = self.rule["patience"], self.rule["factor"]
        self.ready = torch.where((self.value == 0) & success, self.ready + 1, 0)
        begins = self.ready >= patience
        self.value[begins] = self.rule["first"]
        for counter in (self.ready, self.ups, self.downs, self.rose, self.fell):
            counter[begins] = 0
        self.ups = torch.where(success, self.ups + 1, 0)
        self.downs = torch.where(success, 0, self.downs + 1)
        rise, fall = self.ups >= patience, self.downs >= patience
        self.value[rise] *= factor
        self.value[fall] /= factor**1.5
        self.ups[rise], self.downs[fall] = 0, 0
        self.rose |= rise
        self.fell |= fall

    @property
    def settled(self) -> Tensor:
        """Classes (T,) whose weight has gone both up and down."""
        return self.rose & self.fell
