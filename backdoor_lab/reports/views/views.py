"""Which views there are, drawn from a run's models and images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backdoor_lab.datasets import ImageSet
from backdoor_lab.evaluation.examination import Examination
from backdoor_lab.models import Classifier
from backdoor_lab.reports.features import feature_picture
from backdoor_lab.reports.run_pictures import POINTS, features_of
from backdoor_lab.reports.views.activations import activation_picture
from backdoor_lab.reports.views.batch_norms import batch_norm_picture
from backdoor_lab.reports.views.grad_cam import grad_cam_picture
from backdoor_lab.reports.views.line import line_picture
from backdoor_lab.training import Engine

VIEWS = ("view_batch_norms", "view_activations", "view_line", "view_grad_cam", "view_auxiliary")


def draw_views(
    folder: Path,
    models: Mapping[str, Classifier],
    exam: Examination,
    sets: Mapping[str, ImageSet],
    engine: Engine,
) -> dict[str, Path]:
    """Write what can be drawn of a run, as `<view>.png`.

    Args:
        folder: of the run.
        models: `victim` and `purified`.
        exam: clean and triggered test images; without the latter some views are left out.
        sets: what the auxiliary images are compared with and come to: `seen`, `auxiliary` and,
            where there is a calibration, `calibrated`; empty where the defender has none.
        engine: runs the models.
    """
    files = {name: folder / f"{name}.png" for name in VIEWS}
    drawn = ["view_batch_norms"] if batch_norm_picture(files["view_batch_norms"], models) else []
    if len(exam.counted):  # the change that a trigger makes wants the same images without it
        activation_picture(files["view_activations"], models, exam, engine)
        drawn.append("view_activations")
    if len(exam.triggered):
        grad_cam_picture(files["view_grad_cam"], models, exam, engine)
        drawn.append("view_grad_cam")
        drawn += ["view_line"] if line_picture(files["view_line"], models, exam, engine) else []
    if sets:
        auxiliary_picture(files["view_auxiliary"], models["victim"], sets, exam.classes, engine)
        drawn.append("view_auxiliary")
    return {name: files[name] for name in drawn}


def auxiliary_picture(
    path: Path,
    victim: Classifier,
    sets: Mapping[str, ImageSet],
    classes: tuple[str, ...],
    engine: Engine,
) -> None:
    """Seen images by class, and the auxiliary ones among them, before and after calibration."""
    seen = features_of(victim, sets["seen"], engine)[:POINTS]
    others = {name: images for name, images in sets.items() if name != "seen"}
    panels = {name: (seen, features_of(victim, images, engine)) for name, images in others.items()}
    labels = sets["seen"].labels[:POINTS]
    feature_picture(path, panels, labels, classes, whose=("seen images", "auxiliary images"))
