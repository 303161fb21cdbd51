"""The pictures of one run: the trigger, the scores, the features of both models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from backdoor_lab.datasets import ImageSet, evenly
from backdoor_lab.evaluation.examination import Examination
from backdoor_lab.models import Classifier
from backdoor_lab.records import Record
from backdoor_lab.reports.features import feature_picture
from backdoor_lab.reports.pictures import score_picture, trigger_picture
from backdoor_lab.training import Engine, whole

SHOWN = 8
POINTS = 400


def draw_pictures(
    folder: Path,
    record: Record,
    models: Mapping[str, Classifier],
    exam: Examination,
    engine: Engine,
) -> dict[str, Path]:
    """Write `scores.png` and, where there is a trigger, `trigger.png` and `features.png`.

    Of triggered images that are of no test image there is nothing to compare them with.
    """
    pictures = {"scores": folder / "scores.png"}
    score_picture(pictures["scores"], record)
    if not len(exam.triggered):
        return pictures
    if len(exam.counted):
        pictures["trigger"] = folder / "trigger.png"
        some = evenly(len(exam.counted), SHOWN)
        clean, triggered = exam.clean.take(exam.counted[some]), exam.triggered.take(some)
        trigger_picture(
            pictures["trigger"], clean.images, triggered.images, clean.labels, exam.classes
        )
    pictures["features"] = folder / "features.png"
    points = exam.clean.take(evenly(len(exam.clean), POINTS))
    triggered = exam.triggered.take(evenly(len(exam.triggered), POINTS // 4))
    features = {
        name: (features_of(model, points, engine), features_of(model, triggered, engine))
        for name, model in models.items()
    }
    feature_picture(pictures["features"], features, points.labels, exam.classes)
    return pictures


def features_of(model: Classifier, images: ImageSet, engine: Engine) -> Tensor:
    """Penultimate features (N, D) fp32 of a small set."""
    batches = engine.batches(images, engine.eval_batch_size, shuffle=False)
    with engine.evaluating(model):
        return torch.cat([model.features(part).float() for part, _ in whole(batches)])
