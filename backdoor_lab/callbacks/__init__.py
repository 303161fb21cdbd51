"""What acts on a training from outside."""

from backdoor_lab.callbacks.epoch_loss import EpochLoss
from backdoor_lab.callbacks.finite import Finite
from backdoor_lab.callbacks.fit_progress import FitProgress
from backdoor_lab.callbacks.layer_draws import LayerDraws
from backdoor_lab.callbacks.resume import Resume

__all__ = ["EpochLoss", "Finite", "FitProgress", "LayerDraws", "Resume"]
