"""Where each model looks when it answers for a triggered image: Grad-CAM.

Selvaraju et al., ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from backdoor_lab.datasets import evenly
from backdoor_lab.evaluation.examination import Examination
from backdoor_lab.models import Classifier, frozen_copy, outputs
from backdoor_lab.models.stages import outlets
from backdoor_lab.reports.style import INK
from backdoor_lab.training import Engine

SHOWN = 6


def grad_cam_picture(
    path: Path, models: Mapping[str, Classifier], exam: Examination, engine: Engine
) -> None:
    """Triggered images, and what speaks for the answer of each model, row by row."""
    images = exam.triggered.take(evenly(len(exam.triggered), SHOWN)).images.float() / 255
    figure = Figure(figsize=(1.4 * SHOWN, 1.5 * (1 + len(models))), dpi=150, layout="constrained")
    grid = figure.subplots(1 + len(models), len(images), squeeze=False)
    pictures = images.permute(0, 2, 3, 1).cpu().numpy()
    for axes, picture in zip(grid[0], pictures, strict=True):
        axes.imshow(picture)
    for row, (name, model) in zip(grid[1:], models.items(), strict=True):
        heat, answers = grad_cam(model, images.to(engine.device))
        for axes, picture, part, answer in zip(row, pictures, heat.cpu(), answers, strict=True):
            axes.imshow(picture)
            axes.imshow(part, cmap="inferno", alpha=0.55, vmin=0, vmax=1)
            axes.set_title(f"{name}: {exam.classes[answer]}", color=INK, fontsize=7)
    for axes in grid.flat:
        axes.set_axis_off()
    figure.suptitle("Grad-CAM: what speaks for the answer", color=INK, fontsize=11)
    figure.savefig(path)


def grad_cam(model: Classifier, images: Tensor) -> tuple[Tensor, list[int]]:
    """Heat (N, H, W) in [0, 1] of the last feature map for the answered class, and the answers.

    Args:
        model: read only.
        images: (N, C, H, W) in [0, 1], on the model's device.
    """
    source = frozen_copy(model).to(images.device)
    last = list(outlets(source, (images.shape[1], images.shape[2], images.shape[3])))[-1]
    with torch.enable_grad(), outputs(source, [last], lambda maps: maps) as seen:
        logits = source(images.clone().requires_grad_())
        answers = logits.argmax(1)
        (gradient,) = torch.autograd.grad(logits.gather(1, answers[:, None]).sum(), seen[last])
    weights = gradient.mean((2, 3), keepdim=True)
    heat = (weights * seen[last]).sum(1, keepdim=True).relu().detach()
    heat = F.interpolate(heat, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12), answers.tolist()
