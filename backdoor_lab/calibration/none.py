"""No calibration: the auxiliary images as they are."""

from __future__ import annotations

from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.calibration._base import Calibration
from backdoor_lab.training import Engine


class NoCalibration(Calibration):
    """Leaves the auxiliary set alone."""

    needs_images = False

    def calibrate(
        self, model: nn.Module, aux: AuxiliarySet, engine: Engine, seed: int
    ) -> AuxiliarySet:
        return aux
