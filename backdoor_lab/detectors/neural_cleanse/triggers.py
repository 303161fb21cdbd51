"""Inverted triggers, and the smallest of them that were seen to succeed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Inverted:
    """The triggers of T classes.

    Attributes:
        mask: (T, 1, H, W) in [0, 1].
        pattern: (T, C, H, W) in [0, 1].
        converged: which classes (T,) have succeeded at least once.
    """

    mask: Tensor
    pattern: Tensor
    converged: Tensor

    @property
    def norm(self) -> Tensor:
        """Sums of the masks (T,)."""
        return self.mask.sum((1, 2, 3)).cpu()

    @classmethod
    def joined(cls, groups: list[Inverted]) -> Inverted:
        """All classes of some groups."""
        names = ("mask", "pattern", "converged")
        return cls(*(torch.cat([getattr(group, name) for group in groups]) for name in names))


class Best:
    """The smallest triggers that were seen to succeed.

    Attributes:
        found: the triggers; of classes that have not succeeded yet the latest ones.
        idle: passes (T,) without a better one.
    """

    def __init__(self, mask: Tensor, pattern: Tensor) -> None:
        self.found = Inverted(mask, pattern, torch.zeros(len(mask)).bool())
        self.idle = torch.zeros(len(mask)).long()

    def update(
        self, active: Tensor, success: Tensor, mask: Tensor, pattern: Tensor, gain: float
    ) -> None:
        """Take note of the triggers of the `active` classes (A,), and which have succeeded (A,)."""
        found = self.found
        norm, before = mask.sum((1, 2, 3)).cpu(), found.norm[active]
        first = success & ~found.converged[active]
        better = first | (success & (norm < before))
        much_better = first | (better & (norm < gain * before))
        found.converged[active] |= success
        taken = better | ~found.converged[active]
        where = taken.to(mask.device)
        found.mask[active[taken].to(mask.device)] = mask[where]
        found.pattern[active[taken].to(mask.device)] = pattern[where]
        started = found.converged[active] & ~much_better
        self.idle[active] = torch.where(started, self.idle[active] + 1, 0)
