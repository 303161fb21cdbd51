"""FT with the settings of another defense: what of its effect is the fine-tuning alone?

Paper     a control of ours; UniBP compares with fine-tuning at another rate than its own
Differs   no paper has it
"""

from __future__ import annotations

from functools import partial

from backdoor_lab.defenses._base import Defense
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe, cosine, sgd
from backdoor_lab.validation import Count, Momentum, NonNegative, Positive, validated


class FTMatched(Defense):
    """Fine-tunes all layers at its neighbour's rate, batch and epochs, down a half cosine.

    Args:
        like: the neighbour's name, for the report.
        epochs: passes over the images, at least one; this and the next two None where the
            neighbour has no such value, which is refused.
        lr: learning rate, at its start.
        batch_size: images a step.
        lr_floor: learning rate at the end of the half cosine.
        t_max: epochs of the half cosine; None: all.
        momentum: of SGD.
        weight_decay: on all parameters.
    """

    @validated
    def __init__(
        self,
        like: str,
        epochs: Count | None,
        lr: Positive | None,
        batch_size: Count | None,
        lr_floor: NonNegative,
        t_max: Count | None,
        momentum: Momentum,
        weight_decay: NonNegative,
    ) -> None:
        super().__init__()
        if epochs is None or lr is None or batch_size is None:
            raise ConfigError(
                f"like={like} of defense=ft_matched has no epochs, lr and batch_size of its own; "
                "allowed: a defense that fine-tunes, such as unibp, bcu or ft"
            )
        descent, anneal = sgd(momentum, weight_decay), partial(cosine, t_max=t_max, floor=lr_floor)
        self.recipe = Recipe(epochs, batch_size, lr, descent, anneal)
        self.details = {"like": like, "epochs": epochs, "lr": lr, "batch_size": batch_size}
