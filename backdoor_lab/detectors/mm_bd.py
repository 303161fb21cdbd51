"""MM-BD: a backdoor inflates how far its target's logit can be driven above all others.

Paper     Wang et al., "MM-BD: Post-Training Detection of Backdoor Attacks with Arbitrary Backdoor
          Pattern Types Using a Maximum Margin Statistic", IEEE S&P 2024, arXiv:2205.06900
Differs   pixels are projected into [0, 1], where the reference clamps a copy and loses those that
          left; the gamma density starts at 0, its free location degenerates; the p-value, which
          flags a fourth of clean ten-class models, is the reference rule beside a calibrated one
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import gamma
from torch import Tensor

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import nearest
from backdoor_lab.detectors._base import Detector, grouped
from backdoor_lab.detectors._rules import outlier_rules
from backdoor_lab.models import Classifier
from backdoor_lab.records import Evidence, Rule
from backdoor_lab.seeds import generator_for
from backdoor_lab.validation import Count, NonNegative, Positive, validated

LEVEL = 0.05  # of the reference's p-value


class MMBD(Detector):
    """Ascends, for each class, its margin over the best other one from random images.

    Args:
        starts: random images a class.
        steps: of SGD, at most.
        lr: of SGD.
        stop: relative change of a class's summed margin below which it is done.
        project: pixels back into [0, 1] after each step.
        threshold: of the MAD index; None: by the number of classes.
        at_once: images that pass together, as of `together`.
    """

    needs_images = False
    cannot_see = (
        "all-to-all backdoors, which inflate every margin; few classes; models whose margins are "
        "small by training (label smoothing, temperature) or after fine-tuning"
    )

    @validated
    def __init__(
        self,
        starts: Count,
        steps: Count,
        lr: Positive,
        stop: NonNegative,
        project: bool,
        threshold: Positive | None,
        at_once: Count,
    ) -> None:
        super().__init__()
        self.starts, self.steps, self.lr, self.stop = starts, steps, lr, stop
        self.project, self.threshold, self.at_once = project, threshold, at_once

    def look(self, model: Classifier, aux: AuxiliarySet) -> Evidence:
        classes = self.spec.num_classes
        draw = generator_for(self.seed, "starts")
        several = max(1, self.together(self.at_once) // self.starts)
        parts = []
        for group in grouped(classes, several):
            starts = torch.rand((len(group), self.starts, *self.spec.shape), generator=draw)
            parts.append(self.ascend(model, starts, torch.tensor(list(group))))
        margins = torch.cat([margin for margin, _ in parts]).tolist()
        self.shown = {"largest margin": torch.cat([image for _, image in parts])}
        usual, calibrated, reason = outlier_rules(
            margins, self.spec.classes, "right", self.threshold
        )
        reference = p_rule(margins, self.spec.classes)
        return self.found(margins, usual.value, reference, calibrated, reason)

    def ascend(self, model: Classifier, starts: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The largest margins (T,) of `targets` (T,) from `starts` (T, n, C, H, W), and images."""
        device = self.engine.device
        pixels, targets = starts.to(device), targets.to(device)
        margins = torch.zeros(pixels.shape[:2], device=device)
        best = pixels[:, 0].clone()
        before = torch.full((len(pixels),), torch.inf, device=device)
        active = torch.arange(len(pixels), device=device)
        for _ in range(self.steps):
            leaf = pixels[active].requires_grad_()
            seen = leaf if self.project else leaf.clamp(0, 1)  # which has no gradient at its bounds
            now = margin(self.full_logits(model, seen.flatten(0, 1)), targets[active])
            sums = now.view(len(active), -1).sum(1)
            (gradient,) = torch.autograd.grad(sums.sum(), leaf)
            margins[active] = now.detach().view(len(active), -1)
            best[active] = leaf.detach()[range(len(active)), margins[active].argmax(1)]
            moved = leaf.detach() + self.lr * gradient
            pixels[active] = moved.clamp(0, 1) if self.project else moved
            change = (sums.detach() - before[active]).abs() / before[active].abs()
            before[active] = sums.detach()
            active = active[~(change < self.stop)]
            if not len(active):
                break
        return margins.amax(1).cpu(), nearest(255 * best).cpu()

    def full_logits(self, model: Classifier, images: Tensor) -> Tensor:
        """In full precision: the stopping rule looks at changes that bf16 rounds away."""
        self.passed += len(images)
        return model(images)


def margin(logits: Tensor, targets: Tensor) -> Tensor:
    """f_t - max of the others, of logits (T * n, K), n rows for each of `targets` (T,)."""
    wanted = targets.repeat_interleave(len(logits) // len(targets))[:, None]
    others = logits.scatter(1, wanted, -torch.inf).amax(1)
    return logits.gather(1, wanted)[:, 0] - others


def p_value(margins: Sequence[float]) -> float | None:
    """1 - F(r_max)^K, F a gamma density fitted to the others; None where not all are positive."""
    values = np.sort(np.asarray(margins, np.float64))
    if values[0] <= 0 or len(values) < 3 or np.ptp(values[:-1]) == 0:
        return None
    shape, _, scale = gamma.fit(values[:-1], floc=0)
    return float(-np.expm1(len(values) * gamma.logcdf(values[-1], shape, scale=scale)))


def p_rule(margins: Sequence[float], names: Sequence[str]) -> Rule | None:
    """The reference's rule, where its density can be fitted."""
    value = p_value(margins)
    if value is None:
        return None
    flagged = value <= LEVEL
    named = (names[int(np.argmax(margins))],) if flagged else ()
    return Rule("p", value, "<=", LEVEL, flagged, named)
