"""Learnable changes of auxiliary images before a defense uses them."""

from backdoor_lab.calibration._base import Calibration

__all__ = ["Calibration"]
