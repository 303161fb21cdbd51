"""A flat minimum, and what holds a network to it while it learns on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import get_total_norm

from backdoor_lab.models import frozen_copy

Batch = tuple[Tensor, Tensor]
Penalty = Callable[[Tensor, Tensor], Tensor]
CHUNK = 16  # images whose gradients are held at once


@contextmanager
def climbed(parameters: Iterable[nn.Parameter], radius: float) -> Iterator[None]:
    """Moves weights by `radius` up their joint gradient (SAM); afterwards they are back, exactly.

    epsilon = radius * g / (||g|| + 1e-12), with one norm over all `parameters`.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
    home = [parameter.detach().clone() for parameter in moved]
    with torch.no_grad():
        scale = radius / (get_total_norm(gradients) + 1e-12)
        for parameter, gradient in zip(moved, gradients, strict=True):
            parameter.add_(scale * gradient)
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


def fisher(model: nn.Module, batches: Iterable[Batch], divisor: float) -> dict[str, Tensor]:
    """Diagonal Fisher information: sum_i p(y_i|x_i) (d log p(y_i|x_i) / dw)^2 / `divisor`.

    The model is in eval mode; y_i is the label given, and one image's gradient is squared by
    itself. The weight p(y_i|x_i) is the authors' own.

    Args:
        model: put into eval mode.
        batches: of images (N, C, H, W) and labels (N,).
        divisor: what the sum is divided by.

    Returns:
        By name, shaped as the parameter.
    """
    model.eval()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def log_likelihood(
        weights: dict[str, Tensor], image: Tensor, label: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = functional_call(model, (weights, buffers), (image[None],))
        chosen = logits.log_softmax(1).gather(1, label.view(1, 1)).squeeze()
        return chosen, chosen.exp()

    scores = vmap(grad(log_likelihood, has_aux=True), in_dims=(None, 0, 0))
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for images, labels in batches:
        for part, given in zip(images.split(CHUNK), labels.split(CHUNK), strict=True):
            gradients, likelihoods = scores(weights, part, given)
            for name, gradient in gradients.items():
                total[name] += torch.einsum("n,n...->...", likelihoods, gradient.square())
    return {name: value / divisor for name, value in total.items()}


def elastic(model: nn.Module, information: dict[str, Tensor], anchor: dict[str, Tensor]) -> Tensor:
    """EWC: sum_j F_j (w_j - w*_j)^2 over all parameters, F `information` and w* `anchor`."""
    terms = [
        (information[name] * (weight - anchor[name]).square()).sum()
        for name, weight in model.named_parameters()
    ]
    return torch.stack(terms).sum()


def anchored(logits: Tensor, anchor: Tensor) -> Tensor:
    """Batch mean of the squared distance of two softmaxes, of logits (N, classes)."""
    return (anchor.float().softmax(1) - logits.float().softmax(1)).square().sum(1).mean()


def elastically(model: nn.Module, batches: Iterable[Batch], divisor: float) -> Penalty:
    """Holds the weights that matter to `batches`."""
    information = fisher(model, batches, divisor)
    anchor = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    return lambda _, __: elastic(model, information, anchor)


def by_an_anchor(model: nn.Module, batches: Iterable[Batch], divisor: float) -> Penalty:
    """Holds what the model says of the images it learns on."""
    del batches, divisor
    anchor = frozen_copy(model)
    return lambda images, logits: anchored(logits, anchor(images))


def naively(model: nn.Module, batches: Iterable[Batch], divisor: float) -> Penalty:
    """Holds nothing."""
    del model, batches, divisor
    return lambda _, logits: logits.new_zeros(())
