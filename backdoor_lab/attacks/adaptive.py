"""Adaptive: any attack by someone who knows Clean & Compact and trains around it.

Paper     Clean & Compact (Phan et al., ECCV 2024), Table 7
Differs   the paper leaves the attacker's threshold open: it is the defender's 4
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from backdoor_lab.attacks._base import Attack
from backdoor_lab.attacks._wrapper import Wrapper
from backdoor_lab.callbacks.rank_scaling import RankScaling
from backdoor_lab.models.rank_scaling import RULES, Rule
from backdoor_lab.validation import Positive, validated
from backdoor_lab.victims import Workshop


class Adaptive(Wrapper):
    """Scales the victim's rank components down after each epoch of the inner attack's training.

    Args:
        inner: the attack.
        tau: normalised singular value above which a component shrinks.
        rule: what it shrinks to: `centred`, `clipped` or `raw`.
        include_last: whether the last epoch is followed by it too.
        reset_momentum: forget the momentum after each scaling.
    """

    @validated
    def __init__(
        self,
        inner: Attack,
        tau: Positive = 4,
        rule: Rule = "centred",
        include_last: bool = True,
        reset_momentum: bool = False,
    ) -> None:
        super().__init__(inner)
        self.scaling = RankScaling(tau, RULES[rule], include_last, reset_momentum)
        inner.callbacks = [self.scaling]

    def train_victim(self, model: nn.Module, shop: Workshop, folder: Path | None = None) -> Tensor:
        poisoned = self.inner.train_victim(model, shop, folder)
        self.details = {**self.inner.details, "scaled_components": self.scaling.scaled}
        return poisoned
