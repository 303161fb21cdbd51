"""Loss along the straight line from the victim to the purified model.

Running statistics that are means of the two models' fit neither: they are taken anew at all points,
the ends too, so that a barrier is one of the weights. Crosses show both models as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from backdoor_lab.datasets import ImageSet, evenly
from backdoor_lab.evaluation.examination import Examination
from backdoor_lab.models import Classifier
from backdoor_lab.reports.style import INK
from backdoor_lab.training import Engine, accuracy

IMAGES = 1000
POINTS = [number / 10 for number in range(11)]  # 0: victim, 1: purified
COLOURS = ("#0072B2", "#D55E00")  # Okabe and Ito


def line_picture(
    path: Path, models: Mapping[str, Classifier], exam: Examination, engine: Engine
) -> bool:
    """Cross-entropy and rates, clean and triggered; False where the architectures differ."""
    start, end = (models[name].state_dict() for name in ("victim", "purified"))
    if {key: value.shape for key, value in start.items()} != {
        key: value.shape for key, value in end.items()
    }:
        return False
    clean = exam.clean.take(evenly(len(exam.clean), IMAGES))
    some = evenly(len(exam.triggered), IMAGES)
    triggered, wanted = exam.triggered.take(some), exam.wanted[some]
    asked = [(clean, clean.labels), (triggered, wanted)]
    ends = [scores(models[name], asked, engine) for name in ("victim", "purified")]
    model = deepcopy(models["victim"])
    rows = []
    for point in POINTS:
        model.load_state_dict(between(start, end, point))
        engine.refresh_statistics(model, clean)
        rows.append(scores(model, asked, engine))
    line_figure(rows, ends).savefig(path)
    return True


def scores(
    model: Classifier, asked: Sequence[tuple[ImageSet, Tensor]], engine: Engine
) -> list[float]:
    """Cross-entropy of each set and its labels, then the rate of each."""
    answers = [(engine.predict(model, images), labels) for images, labels in asked]
    pairs = [(logits, labels.to(logits.device)) for logits, labels in answers]
    losses = [F.cross_entropy(*pair).item() for pair in pairs]
    return losses + [accuracy(*pair) for pair in pairs]


def line_figure(rows: Sequence[Sequence[float]], ends: Sequence[Sequence[float]]) -> Figure:
    """Scores at all points as lines, and those of both models as they are as crosses."""
    figure = Figure(figsize=(9, 3.2), dpi=150, layout="constrained")
    for axes, first, title in zip(figure.subplots(1, 2), (0, 2), ("cross-entropy", "rate"),
                                  strict=True):  # fmt: skip
        for offset, name in enumerate(("clean, true class", "triggered, attacker's class")):
            values = [row[first + offset] for row in rows]
            axes.plot(POINTS, values, marker=".", label=name, color=COLOURS[offset])
            own = [one[first + offset] for one in ends]
            axes.scatter([0, 1], own, marker="x", color=COLOURS[offset])
        axes.set_xticks([0, 1], ["victim", "purified"])
        axes.set_title(title, color=INK, fontsize=10)
    figure.axes[0].scatter([], [], marker="x", color=INK, label="as they are")
    figure.axes[0].legend(frameon=False, fontsize=8)
    title = "On the straight line between the models, BatchNorm refreshed on clean test images"
    figure.suptitle(title, color=INK, fontsize=11)
    return figure


def between(
    start: Mapping[str, Tensor], end: Mapping[str, Tensor], point: float
) -> dict[str, Tensor]:
    """All tensors at a point of the line: 0 the start, 1 the end."""
    return {
        key: torch.lerp(value, end[key].to(value), point) if value.is_floating_point() else value
        for key, value in start.items()
    }
