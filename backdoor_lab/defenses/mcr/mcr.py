"""MCR: joins the victim and its fine-tuned copy by a curve of low loss; takes a point on it.

Paper     Zhao et al., "Bridging Mode Connectivity in Loss Landscapes and Adversarial Robustness",
          ICLR 2020, arXiv:2005.00060
Differs   one end is the victim, the other its fine-tuned copy, as in BCU and BackdoorBench; the
          paper joins two backdoored models. Statistics of BatchNorm are refreshed on the defender's
          images: the paper takes the whole training set, BCU leaves those of random points of the
          curve. BackdoorBench's gradients pile up over the steps, which its rate of 3e-5 makes
          good: here they are those of the step, the rate and its fall are the paper's, and weight
          decay is of the weights on the curve; bf16
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses._base import Defense
from backdoor_lab.defenses.mcr.curves import bezier, chain, late_fall, mixture
from backdoor_lab.seeds import derive, generator_for
from backdoor_lab.training import Recipe, Tuning, backdoorbench, sgd
from backdoor_lab.validation import (
    Count,
    Fraction,
    Index,
    Momentum,
    NonNegative,
    Positive,
    validated,
)

GRID = [step / 10 for step in range(1, 10)]


class MCR(Defense):
    """Mode connectivity repair: theta(t), t in [0, 1], leads from the victim to its tuned copy.

    Its loop trains the inner points of the curve, the ends stay:
    min E_t CE(theta(t)) + wd / 2 ||theta(t)||^2, a t ~ U(0, 1) each step.

    Args:
        curve: `bezier`, or `chain` of straight lines.
        points: of the curve, its ends among them.
        t: where the purified model lies, 0 the victim, 1 its tuned copy; None: of 0.1, 0.2, ... 0.9
            the closest to the middle that keeps the accuracy on held-out auxiliary images.
        acc_drop: how much of that accuracy may be lost, in [0, 1].
        end_epochs: of the fine-tuning that makes the other end.
        end_lr: of that, at its start.
        end_t_max: epochs of its half cosine; None: all.
        end_patience: epochs without a lower training loss until the rate is a tenth, instead of
            the cosine; None: cosine.
        epochs: of the curve.
        lr: of the curve; constant up to half of the epochs, at nine tenths of them a hundredth.
        momentum: of SGD in both.
        weight_decay: of the weights in both; on the curve, of theta(t).
        batch_size: images a step in both.
    """

    @validated
    def __init__(
        self,
        curve: Literal["bezier", "chain"],
        points: Annotated[int, Field(ge=3)],
        t: Fraction | None,
        acc_drop: Fraction,
        end_epochs: Count,
        end_lr: Positive,
        end_t_max: Count | None,
        end_patience: Index | None,
        epochs: Count,
        lr: Positive,
        momentum: Momentum,
        weight_decay: NonNegative,
        batch_size: Count,
    ) -> None:
        super().__init__()
        self.shares = {"bezier": bezier, "chain": chain}[curve]
        self.points, self.t, self.acc_drop, self.decay = points, t, acc_drop, weight_decay
        fall = partial(backdoorbench, t_max=end_t_max, patience=end_patience)
        self.tuning = Recipe(end_epochs, batch_size, end_lr, sgd(momentum, weight_decay), fall)
        self.recipe = Recipe(epochs, batch_size, lr, sgd(momentum, weight_decay=0), late_fall)
        self.least = 2 if t is not None else 4  # half may be held out

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        data = aux.labelled_data
        model.to(self.engine.device)
        if self.t is not None:
            self.connect(model, self.tuned(model, data), data)
            return self.place(model, self.t, data)
        train, held = self.hold_out(data)
        wanted = self.engine.accuracy(model, held) - self.acc_drop
        self.connect(model, self.tuned(model, train), train)
        return self.place(model, self.choose(model, train, held, wanted), train)

    def tuned(self, model: nn.Module, data: ImageSet) -> nn.Module:
        """A fine-tuned copy of `model`: the other end of the curve."""
        seed = derive(self.seed, "other end")
        module = Tuning(deepcopy(model), self.tuning, self.crop_flip, seed)
        self.engine.fit(module, data, "other end")
        return module.model

    def connect(self, victim: nn.Module, other: nn.Module, data: ImageSet) -> None:
        """Train the curve from `victim` to `other`, which begins as a straight line.

        The weights of `victim` stay; its BatchNorm statistics become those of nothing in
        particular, because points all along the curve pass through it.
        """
        self.ends = [[w.detach().clone() for w in end.parameters()] for end in (victim, other)]
        self.bends = nn.ModuleList()
        for number in range(1, self.points - 1):
            t = number / (self.points - 1)
            inner = mixture([1 - t, t], self.ends)
            self.bends.append(nn.ParameterList([nn.Parameter(weight) for weight in inner]))
        self.fit(victim.requires_grad_(False), data)

    def configure_optimizers(self) -> Any:
        return self.recipe.optimizers(self.bends.parameters(), self.steps_per_epoch)

    def on_train_start(self) -> None:
        self.generator = generator_for(self.seed, "curve")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch, float(torch.rand((), generator=self.generator)))  # on the CPU

    def loss(self, batch: tuple[Tensor, Tensor], t: float) -> Tensor:
        """CE(theta(t)) + wd / 2 ||theta(t)||^2."""
        images, labels = batch
        weights = self.at(t)
        names = [name for name, _ in self.model.named_parameters()]
        logits = functional_call(self.model, dict(zip(names, weights, strict=True)), images)
        penalty = torch.stack([weight.square().sum() for weight in weights]).sum()
        return F.cross_entropy(logits, labels) + self.decay / 2 * penalty

    def at(self, t: float) -> list[Tensor]:
        """Theta(t): the weights of the model there, in its order."""
        bends: list[list[Tensor]] = [[*bend.parameters()] for bend in self.bends]
        return mixture(self.shares(t, self.points), [self.ends[0], *bends, self.ends[1]])

    def choose(self, model: nn.Module, train: ImageSet, held: ImageSet, wanted: float) -> float:
        """The t closest to the middle, so far from both ends, whose accuracy is `wanted`.

        Where none is as accurate, the most accurate.
        """
        tried = {t: self.engine.accuracy(self.place(model, t, train), held) for t in GRID}
        self.details |= {"wanted": round(wanted, 6), "accuracies": list(tried.values())}
        harmless = [t for t, accuracy in tried.items() if accuracy >= wanted]
        if not harmless:
            return max(tried, key=lambda t: tried[t])
        return min(harmless, key=lambda t: (round(abs(t - 0.5), 1), -t))

    @torch.no_grad()
    def place(self, model: nn.Module, t: float, data: ImageSet) -> nn.Module:
        """Give `model` the weights theta(t), and BatchNorm statistics of `data` under these."""
        for parameter, weight in zip(model.parameters(), self.at(t), strict=True):
            parameter.copy_(weight)
        self.engine.refresh_statistics(model, data, self.recipe.batch_size)
        shares = self.shares(t, self.points)
        self.details |= {"t": t, "shares": [round(share, 4) for share in shares]}
        return model.requires_grad_(True).eval()
