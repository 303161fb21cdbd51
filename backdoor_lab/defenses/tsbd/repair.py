"""Descends the loss and, approximately, the norm of its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from backdoor_lab.training import SAM
from backdoor_lab.training.sam import climbed


class NormPenalty(SAM):
    """Descends by (1 - alpha) g(w) + alpha g(w + r g(w) / ||g(w)||), each tensor by its own norm.

    To first order in r that is the gradient of L + alpha r sum_t ||g_t||; two passes a step.

    Args:
        params: what is trained.
        lr: of `base`.
        rho: r, how far each tensor climbs.
        alpha: weight of the gradient there; 0: `base` alone, 1: SAM but for the norms.
        base: the optimizer that descends.
        options: what it takes besides.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        rho: float,
        alpha: float,
        base: Callable[..., Optimizer] = SGD,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, rho, base, **options)
        self.alpha = alpha

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of `base`; `closure` clears the gradients, and computes loss and gradients."""
        if closure is None:
            raise ValueError("NormPenalty passes over a batch twice: step() needs a closure")
        with torch.enable_grad():
            loss = closure()
            weights = [weight for group in self.param_groups for weight in group["params"]]
            here = [None if weight.grad is None else weight.grad.clone() for weight in weights]
            with ExitStack() as back:
                for weight in weights:
                    back.enter_context(climbed([weight], self.rho, self.adaptive))
                back.enter_context(self.second_pass())
                closure()
        for weight, gradient in zip(weights, here, strict=True):
            if gradient is not None and weight.grad is not None:
                weight.grad.mul_(self.alpha).add_(gradient, alpha=1 - self.alpha)
        self.base.step()
        return loss
