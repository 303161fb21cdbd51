"""Spectral signatures: poisoned images of a class lie apart along its features' main direction.

Paper     Tran, Li and Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018
Differs   nothing is removed and trained again: images are ranked, and classes compared by the share
          of their first direction; without labels an image counts for the class that the model says
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.detectors._rules import FEWEST, outlier_rules
from backdoor_lab.detectors._suspected import Suspected, SuspectedDetector
from backdoor_lab.models import Classifier
from backdoor_lab.records import Evidence
from backdoor_lab.training import as_floats
from backdoor_lab.validation import Count, Positive, validated

LEAST = 10  # images of a class, of which a direction can be told
NAMED = 20


class Spectral(SuspectedDetector):
    """Scores suspected training images by their part along the main direction of their class.

    Args:
        folder: of suspected training images, in sub-folders by label or flat; None: it does not
            apply.
        images: that are looked at, at most.
        reference: score features as they are, as the authors' code does; else centred.
        threshold: of the MAD index; None: by the number of classes.
        at_once: images that pass together, as of `together`.
    """

    needs_images = False
    cannot_see = (
        "few poisoned images, attacks whose features mix with clean ones (adaptive, wanet), "
        "clean-label attacks, all-to-all; it needs the training images themselves"
    )

    @validated
    def __init__(
        self,
        folder: Path | None,
        images: Count,
        reference: bool,
        threshold: Positive | None,
        at_once: Count,
    ) -> None:
        super().__init__()
        self.folder, self.images, self.reference = folder, images, reference
        self.threshold, self.at_once = threshold, at_once

    def look(self, model: Classifier, aux: AuxiliarySet) -> Evidence:
        suspected = self.suspected(self.images)
        features, answers = self.features(model, suspected.images)
        labels = answers if suspected.labels is None else suspected.labels
        scores = torch.zeros(len(labels), dtype=torch.float64)
        shares = np.zeros(self.spec.num_classes)
        for label, count in enumerate(labels.bincount(minlength=self.spec.num_classes).tolist()):
            if count >= LEAST:
                members = (labels == label).nonzero().flatten()
                scores[members], shares[label] = signature(features[members], self.reference)
        told = np.flatnonzero(shares)
        if len(told) < FEWEST:
            few = f"{len(told)} classes have {LEAST} suspected images or more; {FEWEST} are needed"
            return self.found(shares, None, None, None, few, **self.ranked(suspected, scores))
        names = [self.spec.classes[one] for one in told]
        rules = outlier_rules(list(shares[told]), names, "right", self.threshold)
        ranked = self.ranked(suspected, scores)
        return self.found(shares, rules[0].value, None, rules[1], rules[2], **ranked)

    @torch.no_grad()
    def features(self, model: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the head sees (M, D), and the answers (M,), in full precision on the CPU."""
        self.passed += len(images)
        parts = images.split(self.together(self.at_once))
        features = [model.features(as_floats(one.to(self.engine.device))) for one in parts]
        answers = torch.cat([model.head(one).argmax(1) for one in features])
        return torch.cat(features).double().cpu(), answers.cpu()

    def ranked(self, suspected: Suspected, scores: Tensor) -> dict[str, Any]:
        """The images that stand out most, by file."""
        most = scores.argsort(descending=True)[:NAMED].tolist()
        return {
            "suspected": len(scores),
            "labels": "of the folders" if suspected.labels is not None else "of the model",
            "highest": {suspected.files[one]: round(float(scores[one]), 6) for one in most},
        }


def signature(features: Tensor, reference: bool = False) -> tuple[Tensor, float]:
    """Scores (N,) of the features (N, D) of one class, and the share of its main direction.

    <R - mean, v>^2, v the first right singular vector of the centred features; the reference scores
    |<R, v>|, which misses what lies on the other side of the origin.
    """
    centred = features - features.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    direction = vectors[:, -1]
    share = float(values[-1] / values.sum().clamp(min=1e-12))
    if reference:
        return (features @ direction).abs(), share
    return (centred @ direction).square(), share
