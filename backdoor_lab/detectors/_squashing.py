"""Shares between 0 and 1 that are searched for without bounds."""

from __future__ import annotations

from torch import Tensor


def squashed(raw: Tensor) -> Tensor:
    """tanh(a) / 2 + 1/2."""
    return raw.tanh() / 2 + 0.5


def raw_of(share: Tensor) -> Tensor:
    """What `squashed` makes `share`, in (0, 1), of."""
    return (2 * share.clamp(1e-4, 1 - 1e-4) - 1).atanh()
