"""SAM: descends by the gradient at the worst point of a small ball around the weights.

Paper     Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization,
          ICLR 2021, arXiv:2010.01412; adaptive: Kwon et al., ASAM, ICML 2021, arXiv:2102.11600
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import SGD, Optimizer


class SAM(Optimizer):
    """Any optimizer whose gradient is taken `rho` up the gradient; two passes a step.

    With `alpha` it descends by (1 - alpha) g(w) + alpha g(w + e): to first order the gradient of
    L + alpha rho ||g||, the norm of the gradient being what is held down (TSBD).

    Args:
        params: what is trained.
        lr: of `base`.
        rho: how far the weights climb, as one norm over all of them.
        base: the optimizer that descends.
        adaptive: stretch the ball along large weights, as `climbed` does.
        alpha: weight of the gradient up there, the rest being that of the weights where they are.
        apart: each tensor climbs in a ball of its own.
        options: what `base` takes besides.

    Attributes:
        second_pass: entered around the second pass; `Supervised` keeps BatchNorm's running
            statistics out of it.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        rho: float = 0.05,
        base: Callable[..., Optimizer] = SGD,
        adaptive: bool = False,
        alpha: float = 1.0,
        apart: bool = False,
        **options: Any,
    ) -> None:
        self.base = base(params, lr=lr, **options)
        super().__init__(self.base.param_groups, self.base.defaults)
        self.param_groups = self.base.param_groups  # one list, so that schedules reach the base
        self.state = self.base.state
        self.rho, self.adaptive, self.alpha, self.apart = rho, adaptive, alpha, apart
        self.second_pass: Callable[[], AbstractContextManager[None]] = nullcontext

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of `base`; `closure` clears the gradients, and computes loss and gradients."""
        if closure is None:
            raise ValueError("SAM passes over a batch twice: step() needs a closure")
        with torch.enable_grad():
            loss = closure()
            weights = [weight for group in self.param_groups for weight in group["params"]]
            here = self.kept(weights)
            with ExitStack() as back:
                for ball in [[weight] for weight in weights] if self.apart else [weights]:
                    back.enter_context(climbed(ball, self.rho, self.adaptive))
                back.enter_context(self.second_pass())
                closure()
        for weight, gradient in here:
            weight.grad.mul_(self.alpha).add_(gradient, alpha=1 - self.alpha)
        self.base.step()
        return loss

    def kept(self, weights: list[nn.Parameter]) -> list[tuple[Any, Tensor]]:
        """Weights with their gradients here, where these count."""
        if self.alpha == 1:
            return []
        return [(weight, weight.grad.clone()) for weight in weights if weight.grad is not None]

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self.param_groups, self.state = self.base.param_groups, self.base.state


@contextmanager
def climbed(
    parameters: Iterable[nn.Parameter], radius: float, adaptive: bool = False
) -> Iterator[None]:
    """Moves weights by `radius` up their joint gradient; afterwards they are back, exactly.

    epsilon = radius * T^2 g / (||T g|| + 1e-12), with one norm over all `parameters`. T is 1, or
    |w| where it is adaptive: then ||epsilon / |w||| is `radius`, and weights of 0 stay.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    home = [parameter.detach().clone() for parameter in moved]
    gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
    with torch.no_grad():
        stretch = [weight.abs() if adaptive else weight.new_ones(()) for weight in home]
        climbs = [t * gradient for t, gradient in zip(stretch, gradients, strict=True)]
        scale = radius / (get_total_norm(climbs) + 1e-12)
        for parameter, t, climb in zip(moved, stretch, climbs, strict=True):
            parameter.add_(scale * t * climb)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(moved, home, strict=True):
                parameter.copy_(value)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Normalises by the batch as in training, but leaves the running statistics as they are."""
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
