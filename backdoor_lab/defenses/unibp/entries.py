"""Entries of BatchNorm: which are pruned, and noise in their place."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from backdoor_lab.callbacks.masked_gradients import MaskedGradients

Granularity = Literal["entry", "gamma", "beta", "channel"]


def top_entries(
    scores: dict[str, Tensor], count: int, granularity: Granularity = "entry"
) -> dict[str, Tensor]:
    """Which `count` entries score highest over all layers; ties go to the earlier one.

    Args:
        scores: (C,) of each `<layer>.weight` (gamma) and `<layer>.bias` (beta).
        count: how many entries; of channels, whose two entries go together, half as many.
        granularity: what competes: all entries, gammas, betas, or channels by their sum.
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
    best = torch.zeros_like(flat, dtype=torch.bool)
    best[flat.sort(descending=True, stable=True).indices[:wanted]] = True
    parts = best.split([len(score) for score in rivals.values()])
    for name, part in zip(rivals, parts, strict=True):
        both = (f"{name}.weight", f"{name}.bias") if granularity == "channel" else (name,)
        chosen.update(dict.fromkeys(both, part))
    return chosen


class FreshNoise(MaskedGradients):
    """Holds entries at noise that is drawn anew at each step or epoch.

    Args:
        held: by parameter of the module's `model`, which entries (bool, its shape).
        sigma: standard deviation.
        generator: of the draws, on the CPU.
        each: how often.
    """

    def __init__(
        self,
        held: dict[str, Tensor],
        sigma: float,
        generator: torch.Generator,
        each: Literal["step", "epoch"],
    ) -> None:
        super().__init__(held)
        self.sigma, self.generator, self.each = sigma, generator, each

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.each == "epoch" and batch_idx > 0:
            return
        model: Any = pl_module.model
        for name, held in self.held.items():
            parameter = model.get_parameter(name)
            noise = self.sigma * torch.randn(held.shape, generator=self.generator)
            self.values[name] = torch.where(held, noise.to(held.device), parameter)
            parameter.copy_(self.values[name])
