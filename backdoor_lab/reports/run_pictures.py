"""The pictures of one run: the trigger, the scores, the features of both models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backdoor_lab.datasets import ImageSet, evenly
from backdoor_lab.evaluation import Examination
from backdoor_lab.models import Classifier
from backdoor_lab.training import Engine

SHOWN = 8
POINTS = 400


def draw_pictures(
    folder: Path,
    result: dict[str, Any],
    victim: nn.Module,
    purified: nn.Module,
    exam: Examination,
    engine: Engine,
) -> dict[str, Path]:
    """Write `scores.png` and, where there is a trigger, `trigger.png` and `features.png`."""
    from backdoor_lab.reports.features import feature_picture
    from backdoor_lab.reports.pictures import score_picture, trigger_picture

    pictures = {"scores": folder / "scores.png"}
    score_picture(pictures["scores"], result)
    if not len(exam.triggered):
        return pictures
    pictures |= {name: folder / f"{name}.png" for name in ("trigger", "features")}
    some = evenly(len(exam.triggered), SHOWN)
    clean = exam.clean.take(exam.counted[some])
    trigger_picture(
        pictures["trigger"],
        clean.images,
        exam.triggered.take(some).images,
        clean.labels,
        exam.classes,
    )
    points = exam.clean.take(evenly(len(exam.clean), POINTS))
    triggered = exam.triggered.take(evenly(len(exam.triggered), POINTS // 4))
    features = {
        name: (features_of(model, points, engine), features_of(model, triggered, engine))
        for name, model in (("victim", victim), ("purified", purified))
    }
    feature_picture(pictures["features"], features, points.labels, exam.classes)
    return pictures


def features_of(model: nn.Module, images: ImageSet, engine: Engine) -> Tensor:
    """Penultimate features (N, D) fp32 of a small set."""
    batches = engine.batches(images, engine.eval_batch_size, shuffle=False)
    with engine.evaluating(model):
        assert isinstance(model, Classifier)
        return torch.cat([model.features(part).float() for part, _ in batches])
