"""No defense: the victim as it is.

Paper     the row "no defense" of every table
Differs   nothing
"""

from __future__ import annotations

from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses._base import Defense


class NoDefense(Defense):
    """Hands the model back."""

    needs_images = False
    needs_labels = False
    idle = True

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        return model
