"""FT: plain fine-tuning of the whole network on the auxiliary set.

Paper     the baseline of every purification paper; defaults of BackdoorBench (defense/ft.py)
Differs   bf16 instead of fp16; a last batch of one image is dropped
"""

from __future__ import annotations

from functools import partial

from backdoor_lab.defenses._base import Defense
from backdoor_lab.training import Recipe, cosine, sgd
from backdoor_lab.validation import Count, Fraction, NonNegative, Positive, validated


class FT(Defense):
    """Goes on training with clean labelled images, all layers, last epoch kept."""

    @validated
    def __init__(
        self,
        epochs: Count,
        lr: Positive,
        momentum: Fraction,
        weight_decay: NonNegative,
        batch_size: Count,
        t_max: Count | None,
    ) -> None:
        super().__init__()
        descent = sgd(momentum, weight_decay)
        self.recipe = Recipe(epochs, batch_size, lr, descent, partial(cosine, t_max=t_max))
