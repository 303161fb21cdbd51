"""FT with the settings of another defense: what of its effect is the fine-tuning alone?

Paper     a control of ours; UniBP compares with fine-tuning at another rate than its own
Differs   no paper has it; the rate falls as a half cosine, or at a plateau, whatever the shape of
          the neighbour's: the rates of a constant one (npd, pam, tsbd) add up to half as much, of
          `mcr` to 0.7 times, of `nad` with its steps to 2.8 times; SGD also where it has Adam
"""

from __future__ import annotations

from functools import partial

from backdoor_lab.defenses._base import Defense
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe, cosine, plateau, sgd
from backdoor_lab.validation import Count, Index, Momentum, NonNegative, Positive, validated


class FTMatched(Defense):
    """Fine-tunes all layers at its neighbour's rate, batch and epochs, by its cosine or plateau.

    Args:
        like: the neighbour's name, for the report.
        epochs: passes over the images in a round, at least one; this, rate and batch None where
            the neighbour has no such value, which is refused.
        rounds: of so many epochs, in one training.
        lr: learning rate, at its start.
        batch_size: images a step.
        lr_floor: learning rate at the end of the half cosine.
        t_max: epochs of the half cosine; None: all.
        patience: epochs without a lower training loss until the rate is a tenth, instead of the
            cosine; None: cosine.
        momentum: of SGD.
        weight_decay: on all parameters.
    """

    @validated
    def __init__(
        self,
        like: str,
        epochs: Count | None,
        rounds: Count,
        lr: Positive | None,
        batch_size: Count | None,
        lr_floor: NonNegative,
        t_max: Count | None,
        patience: Index | None,
        momentum: Momentum,
        weight_decay: NonNegative,
    ) -> None:
        super().__init__()
        self.like = like
        if epochs is None or lr is None or batch_size is None:
            return  # `check` refuses it, by the key that it is typed under
        fall = partial(cosine, t_max=t_max, floor=lr_floor)
        if patience is not None:
            fall = partial(plateau, patience=patience)
        epochs *= rounds
        self.recipe = Recipe(epochs, batch_size, lr, sgd(momentum, weight_decay), fall)
        self.details = {"like": like, "epochs": epochs, "lr": lr, "batch_size": batch_size}

    def check(self, has_images: bool, labelled: bool) -> None:
        super().check(has_images, labelled)
        if not self.details:
            raise ConfigError(
                f"{self.key}.like={self.like} has no epochs, lr and batch_size of its own; "
                "allowed: a defense that fine-tunes, such as unibp, bcu or ft"
            )
