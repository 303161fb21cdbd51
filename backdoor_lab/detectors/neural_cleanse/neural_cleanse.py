"""Neural Cleanse: for a backdoor's target a far smaller patch suffices than for other classes.

Paper     Wang et al., "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural
          Networks", IEEE S&P 2019; rule of the weight and values of its authors' code
Differs   fewer steps and an earlier stop; images that the model takes for the class already are
          left out; every class starts alike; median and MAD by numpy, on masks as they are, not as
          8-bit pictures; beside the paper's rule a calibrated one, on the logarithms of the norms:
          where these spread, none can lie far enough below their median, since all are above 0
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import ImageSet, nearest
from backdoor_lab.detectors._base import Detector, grouped
from backdoor_lab.detectors._rules import USUAL, outlier_rule, outlier_rules
from backdoor_lab.detectors.neural_cleanse.costs import CostRule
from backdoor_lab.detectors.neural_cleanse.inversion import Parts, Search, invert, painted
from backdoor_lab.detectors.neural_cleanse.triggers import Inverted
from backdoor_lab.models import Classifier
from backdoor_lab.records import Evidence
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import as_floats
from backdoor_lab.validation import Count, Momentum, Positive, Rate, validated


class NeuralCleanse(Detector):
    """Inverts a patch for every class, and looks for one that is much smaller than the others.

    Args:
        images: to search on, at most; the others measure.
        held_out: share of the images that the triggers' success is measured on.
        batch_size: images a step.
        passes, lr, momentum, success, gain, stop_after, cost: as of `Search`.
        threshold: of the MAD index; None: by the number of classes.
        at_once: images that pass together, as of `together`.
    """

    cannot_see = (
        "triggers over the whole image (blended, sig, lf), warps and those of each image its own "
        "(wanet, input_aware, ssba, bpp), large patches, all-to-all, many targets; a class that is "
        "easy by nature looks like a target"
    )

    @validated
    def __init__(
        self,
        images: Count,
        held_out: Rate,
        batch_size: Count,
        passes: Count,
        lr: Positive,
        momentum: Momentum,
        success: Rate,
        gain: Rate,
        stop_after: Count,
        cost: CostRule,
        threshold: Positive | None,
        at_once: Count,
    ) -> None:
        super().__init__()
        self.images, self.held_out, self.batch_size = images, held_out, batch_size
        self.search = Search(
            passes=passes, lr=lr, momentum=momentum, success=success, gain=gain,
            stop_after=stop_after, cost=cost,
        )  # fmt: skip
        self.threshold, self.at_once = threshold, at_once

    def look(self, model: Classifier, aux: AuxiliarySet) -> Evidence:
        data, names = aux.data, self.spec.classes
        order = torch.randperm(len(data), generator=generator_for(self.seed, "images"))
        aside = max(1, round(self.held_out * len(data))) if len(data) > 1 else 0
        search = self.parts(model, data, order[aside:][: self.images])
        held = self.parts(model, data, order[:aside] if aside else order)
        found = self.invert_all(model, search)
        reached = self.success_of(model, found, held)
        norms = found.norm.tolist()
        usual = outlier_rule(norms, names, "left", USUAL)
        logs = found.norm.clamp(min=1e-3).log().tolist()
        on_logs, calibrated, reason = outlier_rules(logs, names, "left", self.threshold)
        self.shown = {
            "mask": nearest(255 * found.mask.expand(-1, self.spec.shape[0], -1, -1)).cpu(),
            "trigger": nearest(255 * (found.mask * found.pattern)).cpu(),
        }
        return self.found(
            norms,
            on_logs.value,
            usual,
            calibrated,
            reason,
            foremost=int(np.argmin(norms)),
            success=dict(zip(names, reached.tolist(), strict=True)),
            not_converged=[n for n, ok in zip(names, found.converged, strict=True) if not ok],
            images=sum(len(part) for part, _ in search),
            held_out=aside,
        )

    def parts(self, model: Classifier, data: ImageSet, positions: Tensor) -> Parts:
        """Images in [0, 1] at `positions`, in parts of a batch, with the model's answers."""
        pieces = data.cut(positions.to(data.device)).split(self.batch_size)
        parts = [as_floats(one.to(self.engine.device)) for one in pieces]
        return [(one, self.answers(model, [one])) for one in parts]

    def invert_all(self, model: Classifier, parts: Parts) -> Inverted:
        """The triggers of all classes, as many at a time as fit."""
        draw, device = generator_for(self.seed, "start"), self.engine.device
        channels, height, width = self.spec.shape
        start = (
            torch.rand((1, height, width), generator=draw).to(device),
            torch.rand((channels, height, width), generator=draw).to(device),
        )
        several = max(1, self.together(self.at_once) // len(parts[0][0]))
        targets = torch.arange(self.spec.num_classes, device=device)
        groups = [targets[list(group)] for group in grouped(len(targets), several)]
        return Inverted.joined(
            [
                invert(lambda images: self.logits(model, images), parts, group, start, self.search)
                for group in groups
            ]
        )

    @torch.no_grad()
    def success_of(self, model: Classifier, found: Inverted, parts: Parts) -> Tensor:
        """Share (T,) of images not of a class that its trigger sends there."""
        hits, counts = (torch.zeros(len(found.mask)) for _ in range(2))
        for target in range(len(found.mask)):
            one = slice(target, target + 1)
            for images, answers in parts:
                others = images[answers != target]
                if len(others):
                    seen = painted(others, found.mask[one], found.pattern[one])[0]
                    hits[target] += (self.logits(model, seen).argmax(1) == target).sum().cpu()
                    counts[target] += len(others)
        return hits / counts.clamp(min=1)
