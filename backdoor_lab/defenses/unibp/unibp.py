"""UniBP: prunes the few BatchNorm entries that would rebuild the backdoor, then fine-tunes.

Paper     "UniBP: Toward Universal Backdoor Purification via Fine-Tuning", anonymous submission
Differs   pruned entries become small noise (Eq. 5 of the paper; Eq. 6 has 0, its introduction gamma
          1, beta 0: `value`), drawn once; gradients of batches are squared and summed over the
          steps of the rectification, where its Eq. 3 has those of images, because L_BN is one of a
          batch; what it leaves open is a key: K, rectification, learning rate
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.callbacks.fisher_scores import FisherScores
from backdoor_lab.callbacks.masked_gradients import MaskedGradients
from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses._base import Defense, batch_norms
from backdoor_lab.defenses._statistics import (
    Statistics,
    input_statistics,
    running_statistics,
)
from backdoor_lab.defenses.unibp.entries import FreshNoise, Granularity, top_entries
from backdoor_lab.defenses.unibp.rectification import (
    Rectification,
    Rectifier,
    reset_affine,
    still,
)
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import Recipe, constant, cosine, sgd
from backdoor_lab.training.sam import frozen_statistics
from backdoor_lab.validation import (
    Count,
    Index,
    Momentum,
    NonNegative,
    Positive,
    validated,
)


class UniBP(Defense):
    """Reset and rectify a copy, score its BatchNorm entries, prune the victim's, fine-tune it.

    Args:
        k_mode: what `k` is: a share of all parameters, of the affine entries, or a number.
        k: how many entries are pruned; 0: none, which is fine-tuning alone.
        granularity: what is ranked and pruned.
        value: what pruned entries become: `noise`, `zero` or `reset` (1, 0).
        sigma: standard deviation of the noise.
        resample: when the noise of pruned entries is drawn anew while tuning.
        scores: `fisher`, or `random` as a control.
        fisher: summed over the steps of the rectification (`training`), or over one pass through
            its `final` model.
        reset: whether the copy starts with gamma 1, beta 0.
        rectify: epochs and learning rate of the rectification; without epochs the model that it
            would start from is scored.
        bn_weight: of log L_BN beside the cross-entropy.
        var_weight: of the variances in L_BN.
        prune_from: which model is pruned and tuned.
        detach_var: no gradient through the variances, as in the authors' earlier code.
        mask: whether pruned entries keep their value while tuning.
        freeze_statistics: tune under the running statistics, which stay as they are.
        epochs: of fine-tuning; 0: prune only.
        lr: of fine-tuning, at its start.
        lr_floor: at its end.
        momentum: of SGD in both phases.
        weight_decay: of fine-tuning.
        batch_size: images a step in both phases.
    """

    needs_batch_norm = True

    @validated
    def __init__(
        self,
        k_mode: Literal["ratio_total", "ratio_affine", "absolute"],
        k: NonNegative,
        granularity: Granularity,
        value: Literal["reset", "noise", "zero"],
        sigma: NonNegative,
        resample: Literal["never", "step", "epoch"],
        scores: Literal["fisher", "random"],
        fisher: Literal["training", "final"],
        reset: bool,
        rectify: Rectification,
        bn_weight: NonNegative,
        var_weight: NonNegative,
        prune_from: Literal["victim", "rectified"],
        detach_var: bool,
        mask: bool,
        freeze_statistics: bool,
        epochs: Index,
        lr: Positive,
        lr_floor: NonNegative,
        momentum: Momentum,
        weight_decay: NonNegative,
        batch_size: Count,
    ) -> None:
        super().__init__()
        self.k_mode, self.k, self.granularity = k_mode, k, granularity
        self.value, self.sigma, self.resample = value, sigma, resample
        self.scores, self.fisher, self.reset = scores, fisher, reset
        self.bn_weight, self.var_weight, self.detach_var = bn_weight, var_weight, detach_var
        self.prune_from, self.mask, self.freeze_statistics = prune_from, mask, freeze_statistics
        self.epochs, self.rectify_epochs = epochs, rectify["epochs"]
        self.lr_floor = lr_floor
        anneal = partial(cosine, floor=lr_floor)
        self.recipe = Recipe(max(1, epochs), batch_size, lr, sgd(momentum, weight_decay), anneal)
        plain = sgd(momentum, weight_decay=0)
        self.rectification = Recipe(max(1, self.rectify_epochs), batch_size, rectify["lr"], plain)

    def check(self, has_images: bool, labelled: bool) -> None:
        super().check(has_images, labelled)
        if self.lr_floor > self.recipe.lr:
            raise ConfigError(
                f"{self.key}.lr_floor={self.lr_floor} is above {self.key}.lr={self.recipe.lr}; "
                f"allowed: 0 to {self.key}.lr"
            )
        if self.resample != "never" and not (self.value == "noise" and self.mask):
            raise ConfigError(
                f"{self.key}.resample={self.resample} draws anew what {self.key}.value="
                f"{self.value}, {self.key}.mask={str(self.mask).lower()} do not hold; "
                "allowed: never, or value=noise with mask=true"
            )

    def check_model(self, model: nn.Module) -> None:
        super().check_model(model)
        self.count(model)

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        data = aux.labelled_data
        rectified, scores = self.rectify(model.to(self.engine.device), data)
        if self.scores == "random":
            generator = generator_for(self.seed, "scores")
            scores = {n: torch.rand(s.shape, generator=generator) for n, s in scores.items()}
        pruned = top_entries(scores, self.count(model), self.granularity)
        model = rectified if self.prune_from == "rectified" else model
        self.prune(model.train(), pruned)
        layers = {name: int(entries.sum()) for name, entries in pruned.items() if entries.any()}
        self.details = {"k": sum(layers.values()), "per_layer": layers}
        return self.tune(model, data, pruned) if self.epochs else model.eval()

    def rectify(self, victim: nn.Module, data: ImageSet) -> tuple[nn.Module, dict[str, Tensor]]:
        """The rectified copy, and the Fisher score (C,) of each of its BatchNorm entries."""
        copy = deepcopy(victim).train()
        if self.reset:
            reset_affine(copy)
        names = [f"{norm}.{entry}" for norm in batch_norms(copy) for entry in ("weight", "bias")]
        fisher = FisherScores(names, len(data))
        final = self.fisher == "final" or self.rectify_epochs == 0
        stored = running_statistics(victim)
        if self.rectify_epochs:
            self.draw(copy, stored, data, self.rectification, [] if final else [fisher])
        if final:
            look = Recipe(1, self.recipe.batch_size, self.rectification.lr, still, constant)
            with frozen_statistics(copy):
                self.draw(copy, stored, data, look, [fisher])
        return copy, fisher.scores

    def draw(
        self,
        copy: nn.Module,
        stored: Statistics,
        data: ImageSet,
        recipe: Recipe,
        callbacks: list[FisherScores],
    ) -> None:
        """Train `copy` towards the victim's `stored` statistics, in place."""
        with input_statistics(copy, self.detach_var) as statistics:
            module = Rectifier(copy, recipe, self.crop_flip, self.seed)
            module.statistics, module.stored = statistics, stored
            module.bn_weight, module.var_weight = self.bn_weight, self.var_weight
            self.engine.fit(module, data, "rectify", callbacks)

    def count(self, model: nn.Module) -> int:
        """K, rounded down.

        Raises:
            ConfigError: all that competes would be pruned, or nothing although `k` is not 0.
        """
        affine = sum(2 * norm.num_features for norm in batch_norms(model).values())
        total = sum(parameter.numel() for parameter in model.parameters())
        count = int(self.k * {"ratio_total": total, "ratio_affine": affine}.get(self.k_mode, 1))
        rivals = affine if self.granularity == "entry" else affine // 2
        wanted = count // 2 if self.granularity == "channel" else count
        if self.k and not 1 <= wanted < rivals:
            raise ConfigError(
                f"{self.key}.k={self.k} ({self.k_mode}) means {wanted} of {rivals} "
                f"({self.granularity}); allowed: 0, or what means 1 to {rivals - 1}"
            )
        return count

    @torch.no_grad()
    def prune(self, model: nn.Module, pruned: dict[str, Tensor]) -> None:
        """Give the `pruned` entries of `model` their value, in place."""
        generator = generator_for(self.seed, "noise")
        for name, entries in pruned.items():
            parameter = model.get_parameter(name)
            value = torch.full(entries.shape, float(name.endswith("weight")))
            if self.value == "noise":
                value = self.sigma * torch.randn(entries.shape, generator=generator)
            elif self.value == "zero":
                value = torch.zeros(entries.shape)
            where = entries.to(parameter.device)
            parameter.copy_(torch.where(where, value.to(parameter.device), parameter))

    def tune(self, model: nn.Module, data: ImageSet, pruned: dict[str, Tensor]) -> nn.Module:
        """`model` after fine-tuning; unless `mask` is off, its `pruned` entries are held."""
        if self.freeze_statistics:
            for norm in batch_norms(model).values():
                norm.frozen = True  # type: ignore[assignment]
        if self.resample != "never":
            generator = generator_for(self.seed, "fresh noise")
            held = FreshNoise(pruned, self.sigma, generator, self.resample)
            return self.fit(model, data, [held])
        return self.fit(model, data, [MaskedGradients(pruned)] if self.mask else [])
