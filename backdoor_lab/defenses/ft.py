"""FT: plain fine-tuning of the whole network on the auxiliary set.

Paper     the baseline of every purification paper; defaults of BackdoorBench (defense/ft.py)
Differs   bf16 instead of fp16; a last batch of one image is dropped
"""

from __future__ import annotations

from functools import partial

from backdoor_lab.defenses._base import Defense
from backdoor_lab.training import Recipe, backdoorbench, sgd
from backdoor_lab.validation import (
    Count,
    Index,
    Momentum,
    NonNegative,
    Positive,
    validated,
)


class FT(Defense):
    """Goes on training with clean labelled images, all layers, last epoch kept.

    Args:
        epochs: passes over the images.
        lr: learning rate, at its start.
        momentum: of SGD.
        weight_decay: on all parameters.
        batch_size: images a step.
        t_max: epochs of the half cosine; None: all.
        patience: epochs without a lower training loss until the rate is a tenth, instead of the
            cosine; None: cosine.
    """

    @validated
    def __init__(
        self,
        epochs: Count,
        lr: Positive,
        momentum: Momentum,
        weight_decay: NonNegative,
        batch_size: Count,
        t_max: Count | None,
        patience: Index | None = None,
    ) -> None:
        super().__init__()
        schedule = partial(backdoorbench, t_max=t_max, patience=patience)
        self.recipe = Recipe(epochs, batch_size, lr, sgd(momentum, weight_decay), schedule)
