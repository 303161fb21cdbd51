"""What every calibration offers: the auxiliary set, changed with the victim's help."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.training import Engine


class Calibration(ABC):
    """Changes the auxiliary images before the defense sees them."""

    needs_images = True

    @abstractmethod
    def calibrate(
        self, model: nn.Module, aux: AuxiliarySet, engine: Engine, seed: int
    ) -> AuxiliarySet:
        """The calibrated set; neither `model` nor `aux` is changed.

        Args:
            model: the victim's classifier.
            aux: what the defender holds, maybe no images.
            engine: device, precision, progress.
            seed: of whatever is drawn here.
        """
