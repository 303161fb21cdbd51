"""UniBP: prunes the few BatchNorm entries that would rebuild the backdoor, then fine-tunes.

Paper     "UniBP: Toward Universal Backdoor Purification via Fine-Tuning", anonymous submission
Differs   pruned entries become gamma 1, beta 0 (`value: reset`), where Eq. 5 and 6 of the paper
          contradict each other; what it leaves open is a key: K, rectification, learning rate
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.callbacks.fisher_scores import FisherScores
from backdoor_lab.callbacks.masked_gradients import MaskedGradients
from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses._base import Defense, batch_norms
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import watched
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import Recipe, Tuning, cosine, sgd
from backdoor_lab.validation import Count, Fraction, NonNegative, Positive, validated

Statistics = dict[str, tuple[Tensor, Tensor]]
Granularity = Literal["entry", "gamma", "beta", "channel"]


def bn_distance(batch: Statistics, stored: Statistics) -> Tensor:
    """Mean over layers of ||mu - mu*|| + 0.05 ||v - v*||; (mean, variance) (C,) of each layer."""
    layers = []
    for name, (mean, var) in batch.items():
        stored_mean, stored_var = stored[name]
        layers.append(_norm(mean - stored_mean) + 0.05 * _norm(var - stored_var))
    return torch.stack(layers).mean()


def _norm(vector: Tensor) -> Tensor:
    """Euclidean norm of (C,) with a finite gradient at 0."""
    return (vector.square().sum() + 1e-12).sqrt()


@torch.no_grad()
def reset_affine(model: nn.Module) -> nn.Module:
    """Gamma = 1 and beta = 0 in every BatchNorm of `model`, in place."""
    for norm in batch_norms(model).values():
        norm.weight.fill_(1)
        norm.bias.fill_(0)
    return model


def top_entries(
    scores: dict[str, Tensor], count: int, granularity: Granularity = "entry"
) -> dict[str, Tensor]:
    """Which `count` entries score highest over all layers; ties go to the earlier one.

    Args:
        scores: (C,) of each `<layer>.weight` (gamma) and `<layer>.bias` (beta).
        count: how many entries; of channels, whose two entries go together, half as many.
        granularity: what competes: all entries, gammas, betas, or channels by their sum.

    Raises:
        ConfigError: `count` is not less than what competes, or nothing.
    """
    chosen = {name: torch.zeros_like(score, dtype=torch.bool) for name, score in scores.items()}
    suffix = {"gamma": "weight", "beta": "bias"}.get(granularity, "")
    rivals = {name: score for name, score in scores.items() if name.endswith(suffix)}
    wanted = count
    if granularity == "channel":
        layers = [name.removesuffix(".weight") for name in scores if name.endswith(".weight")]
        rivals = {n: scores[f"{n}.weight"] + scores[f"{n}.bias"] for n in layers}
        wanted = count // 2
    flat = torch.cat(list(rivals.values()))
    if not 1 <= wanted < len(flat):
        raise ConfigError(
            f"defense.k means {wanted} of {len(flat)} ({granularity}); "
            f"allowed: 1 to {len(flat) - 1}"
        )
    best = torch.zeros_like(flat, dtype=torch.bool)
    best[flat.sort(descending=True, stable=True).indices[:wanted]] = True
    parts = best.split([len(score) for score in rivals.values()])
    for name, part in zip(rivals, parts, strict=True):
        both = (f"{name}.weight", f"{name}.bias") if granularity == "channel" else (name,)
        chosen.update(dict.fromkeys(both, part))
    return chosen


@contextmanager
def input_statistics(model: nn.Module, detach_var: bool) -> Iterator[Statistics]:
    """Mean and biased variance (C,), fp32, of what entered each BatchNorm in the last forward."""
    seen: Statistics = {}

    def look(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: None) -> None:
        if module.affine:
            var, mean = torch.var_mean(inputs[0].float(), dim=(0, 2, 3), correction=0)
            seen[name] = (mean, var.detach() if detach_var else var)

    with watched(model, look, (nn.BatchNorm2d,), before=True):
        yield seen


class Rectification(TypedDict):
    """Passes over the data, and learning rate, of the phase that rebuilds the backdoor."""

    epochs: Count
    lr: Positive


class Rectifier(Tuning):
    """CE + log L_BN: draws batch statistics to the victim's `stored` ones."""

    statistics: Statistics
    stored: Statistics

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss + (bn_distance(self.statistics, self.stored) + 1e-12).log()


class UniBP(Defense):
    """Reset and rectify a copy, score its BatchNorm entries, prune the victim's, fine-tune it.

    Args:
        k_mode: what `k` is: a share of all parameters, of the affine entries, or a number.
        k: how many entries are pruned.
        granularity: what is ranked and pruned.
        value: what pruned entries become: `reset` (1, 0), `noise` or `zero`.
        sigma: standard deviation of the noise.
        scores: `fisher`, or `random` as a control.
        rectify: epochs and learning rate of the rectification.
        prune_from: which model is pruned and tuned.
        detach_var: no gradient through the variances, as in the authors' earlier code.
        epochs: of fine-tuning.
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
        k: Positive,
        granularity: Granularity,
        value: Literal["reset", "noise", "zero"],
        sigma: NonNegative,
        scores: Literal["fisher", "random"],
        rectify: Rectification,
        prune_from: Literal["victim", "rectified"],
        detach_var: bool,
        epochs: Count,
        lr: Positive,
        lr_floor: NonNegative,
        momentum: Fraction,
        weight_decay: NonNegative,
        batch_size: Count,
    ) -> None:
        super().__init__()
        if lr_floor > lr:
            raise ConfigError(
                f"defense.lr_floor={lr_floor} is above defense.lr={lr}; allowed: 0 to defense.lr"
            )
        self.k_mode, self.k, self.granularity = k_mode, k, granularity
        self.value, self.sigma, self.scores = value, sigma, scores
        self.prune_from, self.detach_var = prune_from, detach_var
        anneal = partial(cosine, floor=lr_floor)
        self.recipe = Recipe(epochs, batch_size, lr, sgd(momentum, weight_decay), anneal)
        self.rectification = Recipe(
            rectify["epochs"], batch_size, rectify["lr"], sgd(momentum, weight_decay=0)
        )

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
        return self.fit(model, data, [MaskedGradients(pruned)])

    def rectify(self, victim: nn.Module, data: ImageSet) -> tuple[nn.Module, dict[str, Tensor]]:
        """The rectified copy, and the Fisher score (C,) of each of its BatchNorm entries."""
        norms = batch_norms(victim)
        stored = {
            n: (victim.get_buffer(f"{n}.running_mean"), victim.get_buffer(f"{n}.running_var"))
            for n in norms
        }
        fisher = FisherScores([f"{n}.{e}" for n in norms for e in ("weight", "bias")], len(data))
        copy = reset_affine(deepcopy(victim)).train()
        with input_statistics(copy, self.detach_var) as statistics:
            module = Rectifier(copy, self.rectification, self.crop_flip, self.seed)
            module.statistics, module.stored = statistics, stored
            self.engine.fit(module, data, "rectify", [fisher])
        return copy, fisher.scores

    def count(self, model: nn.Module) -> int:
        """K, rounded down."""
        affine = sum(2 * norm.num_features for norm in batch_norms(model).values())
        total = sum(parameter.numel() for parameter in model.parameters())
        return int(self.k * {"ratio_total": total, "ratio_affine": affine}.get(self.k_mode, 1))

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
