"""GIC: guided input calibration of the auxiliary images.

Paper     Wei et al., "Revisiting the Auxiliary Data in Backdoor Purification" (Guided Input
          Calibration), equation 1 with one perturbation an image; settings of its experiments
Differs   not released: eval mode, fresh Adam a batch, a radius in pixels of [0, 1] are ours;
          stored in 8 bits by truncation; an unlabelled set is guided by the victim's own
          predictions
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.calibration._base import Calibration
from backdoor_lab.console import progress_bar
from backdoor_lab.datasets import ImageSet, truncate
from backdoor_lab.models import frozen_copy
from backdoor_lab.training import Engine, as_floats
from backdoor_lab.validation import Count, Fraction, Index, Positive, validated


class GIC(Calibration):
    """min sum_i CE(f(x_i + e_i), y_i) over e_i with |e_i|_inf <= radius, x_i + e_i in [0, 1].

    Args:
        steps: of Adam, per image; 0 changes nothing.
        lr: of Adam; its first step goes by `lr` in every pixel.
        radius: largest change of a pixel, for images in [0, 1].
        batch_size: images at once; does not change the result.
    """

    @validated
    def __init__(self, steps: Index, lr: Positive, radius: Fraction, batch_size: Count) -> None:
        self.steps = steps
        self.lr = lr
        self.radius = radius
        self.batch_size = batch_size

    def calibrate(
        self, model: nn.Module, aux: AuxiliarySet, engine: Engine, seed: int
    ) -> AuxiliarySet:
        if aux.images is None:
            return aux
        victim = frozen_copy(model)
        raw = aux.images
        logits = engine.predict(victim, raw)
        labels = raw.labels.to(engine.device) if aux.labelled else logits.argmax(1)
        images = self._images(victim, raw, labels, engine)
        calibrated = ImageSet.of(images.to(raw.device), raw.labels)
        after = engine.predict(victim, calibrated)
        details = {
            **aux.details,
            "guided_by": "labels" if aux.labelled else "predicted labels",
            "loss_before": F.cross_entropy(logits, labels).item(),
            "loss_after": F.cross_entropy(after, labels).item(),
        }
        return replace(aux, images=calibrated, details=details)

    def _images(self, victim: nn.Module, raw: ImageSet, labels: Tensor, engine: Engine) -> Tensor:
        """All images of `raw` (N, C, H, W), calibrated batch by batch; uint8 on the device."""
        batches = torch.arange(len(raw), device=raw.device).split(self.batch_size)
        done = []
        with progress_bar(engine.progress) as bar:
            for positions in bar.track(batches, description="gic"):
                images = as_floats(raw.cut(positions).to(engine.device))
                wanted = labels[positions.to(engine.device)]
                with engine.autocast():
                    images = guide(victim, images, wanted, self.steps, self.lr, self.radius)
                done.append(truncate(images * 255))
        return torch.cat(done)


@torch.enable_grad()
def guide(
    victim: nn.Module, images: Tensor, labels: Tensor, steps: int, lr: float, radius: float
) -> Tensor:
    """Images (N, C, H, W) in [0, 1], changed so that frozen `victim` sees `labels` (N,) in them.

    The sum of the losses, and no batch statistics: no image depends on the others.
    """
    change = torch.zeros_like(images, requires_grad=True)
    adam = torch.optim.Adam([change], lr=lr)
    for _ in range(steps):
        loss = F.cross_entropy(victim(images + change).float(), labels, reduction="sum")
        change.grad = torch.autograd.grad(loss, change)[0]
        adam.step()
        with torch.no_grad():
            change.clamp_(-radius, radius)
            change.copy_((images + change).clamp(0, 1) - images)
    return (images + change).detach()
