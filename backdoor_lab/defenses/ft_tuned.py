"""FT at the strongest setting that a defender can tell to be harmless: the fair control.

Paper     a control of ours; every comparison with fine-tuning turns on its learning rate
Differs   no paper has it
"""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated

from pydantic import Field
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses._base import Defense
from backdoor_lab.errors import DivergedError
from backdoor_lab.training import Recipe, cosine, sgd
from backdoor_lab.validation import Count, Fraction, Momentum, NonNegative, Positive, validated

Several = Annotated[list[Positive], Field(min_length=1)]


class FTTuned(Defense):
    """Chooses rate, then length, by accuracy on held-out auxiliary images; then tunes with all.

    Chosen is the highest that keeps the victim's accuracy there, less a tolerance; where none
    does, the one with the highest accuracy. Neither ASR nor test images are seen.

    Args:
        rates: learning rates that are tried at the default length.
        lengths: epochs that are tried at the chosen rate, as multiples of `epochs`.
        acc_drop: how much of the accuracy may be lost, in [0, 1].
        epochs: the default length.
        momentum: of SGD.
        weight_decay: on all parameters.
        batch_size: images a step.
    """

    least = 4  # half is held out

    @validated
    def __init__(
        self,
        rates: Several,
        lengths: Several,
        acc_drop: Fraction,
        epochs: Count,
        momentum: Momentum,
        weight_decay: NonNegative,
        batch_size: Count,
    ) -> None:
        super().__init__()
        self.rates, self.acc_drop = rates, acc_drop
        self.epochs, self.batch_size = epochs, batch_size
        self.lengths = [max(1, round(length * epochs)) for length in lengths]
        self.descent = sgd(momentum, weight_decay)
        self.recipe = self.at(rates[0], epochs)

    def at(self, lr: float, epochs: int) -> Recipe:
        """The recipe of a rate and a length."""
        return Recipe(epochs, self.batch_size, lr, self.descent, cosine)

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        data = aux.labelled_data
        train, held = self.hold_out(data)
        wanted = self.engine.accuracy(model, held) - self.acc_drop
        by_rate = {
            (lr, self.epochs): self.trial(model, train, held, lr, self.epochs) for lr in self.rates
        }
        lr, _ = strongest(by_rate, wanted)
        by_length = {
            (lr, epochs): by_rate.get((lr, epochs)) or self.trial(model, train, held, lr, epochs)
            for epochs in self.lengths
        }
        lr, epochs = strongest(by_length, wanted)
        tried = by_rate | by_length
        self.details = {
            "lr": lr,
            "epochs": epochs,
            "harmless": tried[lr, epochs] >= wanted,
            "wanted": round(wanted, 6),
            "held_out": len(held),
            "tried": [{"lr": r, "epochs": e, "accuracy": a} for (r, e), a in tried.items()],
        }
        self.recipe = self.at(lr, epochs)
        return self.fit(model, data)

    def trial(
        self, model: nn.Module, train: ImageSet, held: ImageSet, lr: float, epochs: int
    ) -> float:
        """Accuracy on `held` of a copy of `model` tuned on `train`; 0 where it diverges."""
        self.recipe = self.at(lr, epochs)
        try:
            return self.engine.accuracy(self.fit(deepcopy(model), train), held)
        except DivergedError:
            return 0.0


def strongest(tried: dict[tuple[float, int], float], wanted: float) -> tuple[float, int]:
    """The highest (rate, epochs) whose accuracy is at least `wanted`, else the most accurate."""
    harmless = [setting for setting, accuracy in tried.items() if accuracy >= wanted]
    return max(harmless) if harmless else max(tried, key=lambda setting: tried[setting])
