"""What holds a network to a minimum while it learns on: the penalties of continual learning."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from backdoor_lab.models import frozen_copy

Batch = tuple[Tensor, Tensor]
Penalty = Callable[[Tensor, Tensor], Tensor]
CHUNK = 16  # images whose gradients are held at once


def fisher(model: nn.Module, batches: Iterable[Batch], divisor: float) -> dict[str, Tensor]:
    """Diagonal Fisher information: sum_i p(y_i|x_i) (d log p(y_i|x_i) / dw)^2 / `divisor`.

    The model is in eval mode; y_i is the label given, and each image's gradient is squared before
    the sum. The weight p(y_i|x_i) is the authors' own.

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


def elastic_distance(
    model: nn.Module, information: dict[str, Tensor], anchor: dict[str, Tensor]
) -> Tensor:
    """EWC: sum_j F_j (w_j - w*_j)^2 over all parameters, F `information` and w* `anchor`."""
    terms = [
        (information[name] * (weight - anchor[name]).square()).sum()
        for name, weight in model.named_parameters()
    ]
    return torch.stack(terms).sum()


def softmax_distance(logits: Tensor, anchor: Tensor) -> Tensor:
    """Batch mean of the squared distance of two softmaxes, of logits (N, classes)."""
    return (anchor.float().softmax(1) - logits.float().softmax(1)).square().sum(1).mean()


def elastic_penalty(model: nn.Module, batches: Iterable[Batch], divisor: float) -> Penalty:
    """Keeps the weights that matter to `batches` where they are."""
    information = fisher(model, batches, divisor)
    anchor = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    return lambda _, __: elastic_distance(model, information, anchor)


def anchor_penalty(model: nn.Module, batches: Iterable[Batch], divisor: float) -> Penalty:
    """Keeps what the model says of the images it learns on as it is."""
    del batches, divisor
    anchor = frozen_copy(model)
    return lambda images, logits: softmax_distance(logits, anchor(images))


def no_penalty(model: nn.Module, batches: Iterable[Batch], divisor: float) -> Penalty:
    """Keeps nothing: always 0."""
    del model, batches, divisor
    return lambda _, logits: logits.new_zeros(())
