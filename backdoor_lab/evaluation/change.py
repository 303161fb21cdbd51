"""What became of a model besides its scores: answers, weights, calibration, each class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from backdoor_lab.datasets import ImageSet
from backdoor_lab.evaluation.examination import class_accuracies
from backdoor_lab.records import Change
from backdoor_lab.training import Engine

BINS = 15


def change(
    before: nn.Module, after: nn.Module, clean: ImageSet, classes: tuple[str, ...], engine: Engine
) -> Change:
    """How two models differ on clean test images."""
    first, second = (engine.predict(model, clean).cpu() for model in (before, after))
    labels = clean.labels.cpu()
    by_class = [class_accuracies(answers, labels) for answers in (first, second)]
    return Change(
        agreement=(first.argmax(1) == second.argmax(1)).double().mean().item(),
        divergence=divergence(first, second),
        drift=drift(before, after),
        calibration=(calibration_error(first, labels), calibration_error(second, labels)),
        by_class={classes[one]: (by_class[0][one], by_class[1][one]) for one in by_class[0]},
    )


def divergence(before: Tensor, after: Tensor) -> float:
    """Mean KL(before || after) of logits (N, K), in nats."""
    first, second = (one.double().log_softmax(1) for one in (before, after))
    return F.kl_div(second, first, reduction="batchmean", log_target=True).item()


def drift(before: nn.Module, after: nn.Module) -> float | None:
    """||after - before|| / ||before|| over all parameters; None where they do not correspond."""
    first, second = (dict(model.named_parameters()) for model in (before, after))
    shapes = [{name: one.shape for name, one in found.items()} for found in (first, second)]
    if shapes[0] != shapes[1]:
        return None
    with torch.no_grad():
        pairs = [(one.double().cpu(), second[name].double().cpu()) for name, one in first.items()]
        moved = sum((b - a).square().sum() for a, b in pairs)
        length = sum(a.square().sum() for a, _ in pairs)
        return float(torch.as_tensor(moved / length).sqrt())


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error of logits (N, K), in [0, 1]."""
    shares = logits.softmax(1)
    error = multiclass_calibration_error(shares, labels, num_classes=logits.shape[1], n_bins=BINS)
    return error.item()
