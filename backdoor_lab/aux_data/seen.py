"""Seen: clean images that the victim was trained on.

Paper     the usual setting of purification; told apart from the others by GIC (section 5)
Differs   poisoned images are drawn in their clean form, as the field does (`poisoned: originals`);
          GIC's text leaves them out (`left_out`), which loses the target class where an attack has
          poisoned all of it
"""

from __future__ import annotations

import logging

from torch import Tensor

from backdoor_lab.aux_data._base import AuxiliaryKind
from backdoor_lab.datasets import Data, ImageSet, without

log = logging.getLogger(__name__)


class Seen(AuxiliaryKind):
    """Draws from the training images, poisoned ones in their clean form or left out."""

    needs_training = True

    def most(self, data: Data) -> int:
        return len(data.train)

    def pool(self, data: Data, poisoned: Tensor | None, seed: int) -> ImageSet:
        return clean_images(data, poisoned) if self.leaves_out else data.train


def clean_images(data: Data, poisoned: Tensor | None) -> ImageSet:
    """The training images without those at positions `poisoned` (P,); says what that costs."""
    if poisoned is None:
        raise ValueError("which images are poisoned is not known")
    left = data.train.take(without(len(data.train), poisoned))
    classes = data.spec.num_classes
    before, after = (one.labels.bincount(minlength=classes) for one in (data.train, left))
    poor = [data.spec.classes[label] for label in (2 * after < before).nonzero().flatten()]
    if poor:
        log.warning("aux.poisoned=left_out leaves less than half of: %s", ", ".join(poor[:10]))
    return left
