"""Handwritten digits that packages ship, drawn in grey on grey; a fifth are the test set."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from backdoor_lab.datasets._base import Dataset, RawImages
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import derive
from backdoor_lab.validation import Fraction, validated

TEST_SHARE = 0.2


class GreyDigits(Dataset):
    """Digits 0 to 9 that work without a download.

    Args:
        paper: grey level of the background, in [0, 1].
        ink: what full ink adds to it.
        options: what every data set takes.
    """

    @validated
    def __init__(self, paper: Fraction, ink: Fraction, **options: Any) -> None:
        super().__init__(**options)
        if paper + ink > 1:
            raise ConfigError(
                f"dataset.paper={paper} and dataset.ink={ink} exceed white; allowed: a sum up to 1"
            )
        self.paper, self.ink = paper, ink

    @abstractmethod
    def written(self) -> tuple[Tensor, Tensor]:
        """Ink (N, image_size, image_size) in [0, 1], and digits (N,)."""

    def read(self) -> RawImages:
        ink, labels = self.written()
        images = self.drawn(ink)
        train, test = train_test_split(
            np.arange(len(labels)),
            test_size=TEST_SHARE,
            stratify=labels.numpy(),
            random_state=derive(self.split_seed, "test") % 2**32,
        )
        classes = tuple("0123456789")
        return RawImages(images[train], labels[train], images[test], labels[test], classes)

    def drawn(self, ink: Tensor) -> Tensor:
        """Ink (N, H, W) in [0, 1] as uint8 images (N, 3, H, W)."""
        grey = ((self.paper + self.ink * ink) * 255).round().to(torch.uint8)
        return grey[:, None].repeat(1, 3, 1, 1)
