"""STRIP: a triggered image keeps its class whatever other image is laid over it.

Paper     Gao et al., "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks", ACSAC 2019
Differs   overlays and the images that calibrate are apart; thresholds are empirical quantiles
          beside the reference's fitted normal; all images get the same overlays; the paper judges
          images alone: what a folder says as a whole is a test of ours
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import betabinom, norm
from sklearn.metrics import roc_auc_score
from torch import Tensor

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.detectors._suspected import SuspectedDetector
from backdoor_lab.models import Classifier
from backdoor_lab.records import Evidence, Rule
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import as_floats
from backdoor_lab.validation import Count, Rate, validated

LEVEL = 0.05  # of the test whether too many images are suspicious
NAMED = 20  # files of the lowest entropy


class STRIP(SuspectedDetector):
    """Entropy of the answers to suspected images, each mixed with clean ones.

    Args:
        folder: of suspected images; None: it does not apply.
        overlays: clean images that each one is mixed with, at most.
        calibration: clean images whose entropies are the measure, at most.
        images: suspected images that are looked at, at most.
        fpr: share of clean images that may count as suspicious.
        at_once: images that pass together, as of `together`.
    """

    cannot_see = (
        "triggers that addition destroys (wanet, input_aware, bpp, ssba, faint blends), all-to-all "
        "and source-specific backdoors, weak clean-label triggers"
    )

    @validated
    def __init__(
        self,
        folder: Path | None,
        overlays: Count,
        calibration: Count,
        images: Count,
        fpr: Rate,
        at_once: Count,
    ) -> None:
        super().__init__()
        self.folder, self.fpr, self.at_once = folder, fpr, at_once
        self.overlays, self.calibration, self.images = overlays, calibration, images

    def look(self, model: Classifier, aux: AuxiliarySet) -> Evidence:
        clean = aux.data.images
        order = torch.randperm(len(clean), generator=generator_for(self.seed, "halves"))
        half = len(clean) // 2
        if not half:
            return self.found([], None, None, None, "strip needs two clean images or more")
        overlays = as_floats(clean[order[:half][: self.overlays]]).to(self.engine.device)
        suspected = self.suspected(self.images)
        calm, asked = (
            self.entropies(model, images, overlays)
            for images in (clean[order[half:]][: self.calibration], suspected.images)
        )
        few = None
        if not lowest_rank(len(calm), self.fpr):
            few = f"{len(calm)} clean images calibrate it, too few to flag any at {self.fpr:.0%}"
        values = p_values(calm, asked)
        below = values <= self.fpr
        parts = self.parts(suspected.images, self.together(self.at_once))
        answers = self.answers(model, parts).cpu().numpy()
        labels = np.r_[np.zeros(len(calm)), np.ones(len(asked))]
        most = np.argsort(asked)[:NAMED]
        return self.found(
            [np.mean(below & (answers == one)) for one in range(self.spec.num_classes)],
            float(roc_auc_score(labels, -np.r_[calm, asked])),
            None,
            None if few else self.crowd_rule(calm, below, answers),
            few,
            suspected=len(asked),
            share={str(rate): float(np.mean(values <= rate)) for rate in (0.01, 0.05)},
            share_of_normal=below_normal(calm, asked),
            entropy={"clean": float(calm.mean()), "suspected": float(asked.mean())},
            lowest={suspected.files[one]: float(asked[one]) for one in most},
        )

    def parts(self, images: Tensor, size: int) -> list[Tensor]:
        """uint8 images as floats on the device, in parts."""
        return [as_floats(one.to(self.engine.device)) for one in images.split(size)]

    @torch.no_grad()
    def entropies(self, model: Classifier, images: Tensor, overlays: Tensor) -> NDArray[np.float64]:
        """Mean entropy in bits (N,) of the answers to `images` + overlay, not clipped."""
        found = []
        for part in self.parts(images, max(1, self.together(self.at_once) // len(overlays))):
            mixed = (part[:, None] + overlays[None]).flatten(0, 1)
            bits = entropy(self.logits(model, mixed)).view(len(part), len(overlays))
            found.append(bits.mean(1).cpu().numpy())
        return np.concatenate(found)

    def crowd_rule(
        self, calm: NDArray[np.float64], below: NDArray[np.bool_], answers: NDArray[np.int64]
    ) -> Rule:
        """Whether more images are suspicious than among as many clean ones (exact test)."""
        value = crowd_p(int(below.sum()), len(below), len(calm), self.fpr)
        flagged = value <= LEVEL
        classes = [self.spec.classes[np.bincount(answers[below]).argmax()]] if flagged else []
        return Rule("p of so many", value, "<=", LEVEL, flagged, tuple(classes))


def entropy(logits: Tensor) -> Tensor:
    """Of the softmax, in bits, in double precision: (N,) of logits (N, K)."""
    logs = logits.double().log_softmax(1)
    return -(logs.exp() * logs).sum(1) / np.log(2)


def p_values(calm: NDArray[np.float64], asked: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1 + #{clean H <= H}) / (1 + N) of each of the asked entropies."""
    lower = np.searchsorted(np.sort(calm), asked, side="right")
    return (1 + lower) / (1 + len(calm))


def lowest_rank(calm: int, rate: float) -> int:
    """The rank among `calm` clean entropies up to which a p-value is at most `rate`; 0: none."""
    return int(rate * (1 + calm) + 1e-9)


def crowd_p(count: int, asked: int, calm: int, rate: float) -> float:
    """The chance that `count` or more of `asked` clean images have a p-value of at most `rate`.

    So many lie below an order statistic of `calm` clean ones by the beta-binomial law.
    """
    rank = lowest_rank(calm, rate)
    if not rank:
        return 1.0
    return float(betabinom.sf(count - 1, asked, rank, calm - rank + 1))


def below_normal(calm: NDArray[np.float64], asked: NDArray[np.float64]) -> float:
    """The reference's share: below the 1% quantile of a normal fitted to clean entropies."""
    return float(np.mean(asked < norm.ppf(0.01, calm.mean(), calm.std() or 1e-12)))
