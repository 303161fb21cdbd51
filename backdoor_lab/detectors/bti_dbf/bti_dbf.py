"""BTI-DBF: what is left of the features when the benign ones are held leads to the target.

Paper     Xu et al., "Towards Reliable and Efficient Backdoor Trigger Inversion via Decoupling
          Benign Features", ICLR 2024
Differs   features are what the head sees, so that every architecture has them (reference: maps
          before pooling), and are masked in eval mode on a copy; the generator adds to the image
          and begins near the identity, where the reference trains one to be it; a share instead of
          a class that is named always
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import nearest
from backdoor_lab.detectors._base import Detector
from backdoor_lab.detectors.bti_dbf.decoupling import Reversal, benign_mask, reversal
from backdoor_lab.models import Classifier
from backdoor_lab.models.unet import UNet
from backdoor_lab.records import Evidence, Rule
from backdoor_lab.seeds import derive, generator_for
from backdoor_lab.training import as_floats
from backdoor_lab.validation import Count, NonNegative, Positive, Rate, validated

NO_RULE = (
    "the method names a class of every model; detector.threshold takes a share that models "
    "without a backdoor stay below"
)


class BTIDBF(Detector):
    """Asks to which class a generator that spares benign features sends images of the others.

    Args:
        images: that are used, at most.
        mask_steps: of Adam, for the benign features.
        mask_lr: of Adam.
        generator: how it is trained.
        noise: standard deviation of noise on the images that are asked, in normalised units.
        threshold: of the share; None: no verdict.
    """

    needs_labels = True
    cannot_see = (
        "backdoors whose features are weak before the head (some badnets), all-to-all; few "
        "labelled images"
    )

    @validated
    def __init__(
        self,
        images: Count,
        mask_steps: Count,
        mask_lr: Positive,
        generator: Reversal,
        noise: NonNegative,
        threshold: Rate | None,
    ) -> None:
        super().__init__()
        self.images, self.noise, self.threshold = images, noise, threshold
        self.mask_steps, self.mask_lr, self.generator = mask_steps, mask_lr, generator

    def look(self, model: Classifier, aux: AuxiliarySet) -> Evidence:
        data = aux.labelled_data
        order = torch.randperm(len(data), generator=generator_for(self.seed, "images"))
        some = data.take(order[: self.images].to(data.device)).to(self.engine.device)
        images, labels = as_floats(some.images), some.labels
        with torch.no_grad():
            parts = images.split(self.generator["batch_size"])
            features = torch.cat([self.features(model, part) for part in parts])
            answers = model.head(features).argmax(1)
        mask = benign_mask(model.head, features, labels, self.mask_steps, self.mask_lr, self.seed)
        generator = reversal(
            lambda batch: self.features(model, batch),
            images, mask, model.normalize.std, self.generator, derive(self.seed, "generator"),
        )  # fmt: skip
        led = self.led(model, generator, images)
        shares = shares_of(led, labels, answers, self.spec.num_classes)
        return self.told(shares, mask, generator, images, labels)

    def features(self, model: Classifier, images: Tensor) -> Tensor:
        """What the head sees (N, D), fp32."""
        self.passed += len(images)
        with self.engine.autocast():
            found = model.features(images)
        return found.float()

    @torch.no_grad()
    def led(self, model: Classifier, generator: UNet, images: Tensor) -> Tensor:
        """Where the generator leads each image (N,), with a little noise on it."""
        draw = generator_for(self.seed, "noise")
        noise = torch.randn(images.shape, generator=draw).to(images.device)
        noisy = (images + self.noise * model.normalize.std * noise).clamp(0, 1)
        size = self.generator["batch_size"]
        return torch.cat([self.logits(model, generator(p)).argmax(1) for p in noisy.split(size)])

    def told(
        self, shares: Tensor, mask: Tensor, generator: UNet, images: Tensor, labels: Tensor
    ) -> Evidence:
        """The evidence, and an image of each class as the generator changes it."""
        ranked = shares.sort(descending=True)
        share, name = float(ranked.values[0]), self.spec.classes[int(ranked.indices[0])]
        reference = Rule("share", share, ">", 0.0, share > 0, (name,))
        calibrated = None
        if self.threshold is not None:
            flagged = share > self.threshold
            named = (name,) if flagged else ()
            calibrated = Rule("share", share, ">", self.threshold, flagged, named)
        changed = torch.zeros(self.spec.num_classes, *self.spec.shape, dtype=torch.uint8)
        with torch.no_grad():
            for label in labels.unique().tolist():
                one = generator(images[labels == label][:1])[0]
                changed[label] = nearest(255 * one).cpu()
        self.shown = {"reversed": changed}
        details: dict[str, Any] = {
            "margin": float(share - ranked.values[1]),
            "mask": float(mask.mean()),
        }
        return self.found(shares, share, reference, calibrated, NO_RULE, **details)


def shares_of(led: Tensor, labels: Tensor, answers: Tensor, classes: int) -> Tensor:
    """Of the images neither of a class nor taken for it, the share (K,) that is led there."""
    shares = []
    for label in range(classes):
        others = (labels != label) & (answers != label)
        shares.append((led[others] == label).double().mean() if others.any() else torch.zeros(()))
    return torch.stack([one.double().cpu() for one in shares])
