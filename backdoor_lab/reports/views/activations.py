"""What a trigger does to the last feature map: change by channel, activation by class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from backdoor_lab.datasets import ImageSet, evenly
from backdoor_lab.evaluation.examination import Examination
from backdoor_lab.models import Classifier, outputs
from backdoor_lab.models.stages import outlets
from backdoor_lab.reports.style import INK, STAGES
from backdoor_lab.training import Engine, whole

IMAGES = 500
WITH_TRIGGER = "trigger"


def activation_picture(
    path: Path, models: Mapping[str, Classifier], exam: Examination, engine: Engine
) -> None:
    """Trigger-activated change of each channel, sorted; mean activation by class and triggered."""
    some = evenly(len(exam.triggered), IMAGES)
    triggered = exam.triggered.take(some)
    clean = exam.clean.take(exam.counted[some])
    every = exam.clean.take(evenly(len(exam.clean), IMAGES))
    figure = Figure(figsize=(10, 3.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    classes = len(exam.classes)
    places = torch.arange(classes + 1)
    for index, (name, model) in enumerate(models.items()):
        before, after = (maps_of(model, images, engine) for images in (clean, triggered))
        left.plot(change(before, after).tolist(), color=STAGES[name], label=name)
        heights = by_class(maps_of(model, every, engine), every.labels, classes)
        heights.append(after.mean().item())
        right.bar((places + 0.4 * (index - 0.5)).tolist(), heights, 0.4, color=STAGES[name])
    left.set_title("Trigger-activated change, channels sorted", color=INK, fontsize=10)
    left.set_xlabel("channel of the last feature map")
    left.legend(frameon=False)
    right.set_title("Mean activation of the last feature map", color=INK, fontsize=10)
    right.set_xticks(places.tolist(), [*exam.classes, WITH_TRIGGER], rotation=60, fontsize=8)
    figure.savefig(path)


def change(clean: Tensor, triggered: Tensor) -> Tensor:
    """Mean norm over images of what the trigger changes in each channel, largest first.

    Zheng et al., ECCV 2022 (the paper of `clp`), TAC.

    Args:
        clean: feature maps (N, C, H, W).
        triggered: those of the same images with the trigger.

    Returns:
        (C,).
    """
    return (triggered - clean).flatten(2).norm(dim=2).mean(0).sort(descending=True).values


def by_class(maps: Tensor, labels: Tensor, classes: int) -> list[float]:
    """Mean of feature maps (N, C, H, W) over the images of each class; nan of an absent one."""
    labels = labels.cpu()
    return [maps[labels == label].mean().item() for label in range(classes)]


def maps_of(model: Classifier, images: ImageSet, engine: Engine) -> Tensor:
    """The last feature map (N, C, H, W), fp32 on the CPU."""
    last = list(outlets(model, images.shape))[-1]
    batches = engine.batches(images, engine.eval_batch_size, shuffle=False)
    parts = []
    with engine.evaluating(model), outputs(model, [last], lambda maps: maps.float().cpu()) as seen:
        for part, _ in whole(batches):
            model(part)
            parts.append(seen[last])
    return torch.cat(parts)
