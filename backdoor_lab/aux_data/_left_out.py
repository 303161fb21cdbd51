"""`aux.poisoned=left_out`: the training images without those that the attack has poisoned."""

from __future__ import annotations

import logging

from torch import Tensor

from backdoor_lab.datasets import Data, ImageSet, without
from backdoor_lab.errors import ConfigError

log = logging.getLogger(__name__)


def unpoisoned(data: Data, poisoned: Tensor | None) -> ImageSet:
    """The training images but those at positions `poisoned` (P,).

    Raises:
        ConfigError: that are all.
    """
    if poisoned is None:
        raise ValueError("which images are poisoned is not known")
    if len(poisoned) == len(data.train):
        raise ConfigError(
            "aux.poisoned=left_out leaves no image, since attack.poison_rate poisons all of them; "
            "allowed: originals, or a lower rate"
        )
    return data.train.take(without(len(data.train), poisoned))


def warn_of_loss(data: Data, poisoned: Tensor) -> None:
    """Say which classes suffer, or that no image is poisoned for good."""
    if not len(poisoned):
        log.warning("aux.poisoned=left_out leaves nothing out: no image is poisoned beforehand")
        return
    shares = [
        part.labels.bincount(minlength=data.spec.num_classes) / max(len(part), 1)
        for part in (unpoisoned(data, poisoned), data.train)
    ]
    if len(scarce := (shares[0] < shares[1] / 2).nonzero().flatten()):
        names = ", ".join(data.spec.classes[label] for label in scarce.tolist())
        log.warning("aux.poisoned=left_out keeps less than half of the share of class %s", names)
