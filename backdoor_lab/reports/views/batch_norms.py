"""Running statistics and affine entries of all BatchNorm layers, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from backdoor_lab.reports.style import INK, STAGES

PARTS = {
    "running_mean": "running mean",
    "running_var": "running variance, log10",
    "weight": "scale (gamma)",
    "bias": "shift (beta)",
}


def batch_norm_picture(path: Path, models: Mapping[str, nn.Module]) -> bool:
    """A histogram for each part, a line a model (UniBP, Figures 3 and 9); False without a layer."""
    entries = {name: values_of(model) for name, model in models.items()}
    if not all(len(values["weight"]) for values in entries.values()):
        return False
    figure = Figure(figsize=(10, 2.8), dpi=150, layout="constrained")
    for axes, (part, title) in zip(figure.subplots(1, len(PARTS)), PARTS.items(), strict=True):
        every = torch.cat([values[part] for values in entries.values()])
        bins = torch.linspace(every.min().item(), every.max().item() + 1e-6, 41).tolist()
        for name, values in entries.items():
            axes.hist(values[part].tolist(), bins=bins, histtype="step", color=STAGES[name],
                      label=name, linewidth=1.4)  # fmt: skip
        axes.set_title(title, color=INK, fontsize=10)
        axes.set_yscale("log")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle("BatchNorm: how many channels have which value", color=INK, fontsize=11)
    figure.savefig(path)
    return True


def values_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Each part of all layers, joined; variances as powers of ten."""
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d) and one.affine]
    found = {}
    for part in PARTS:
        parts = [getattr(norm, part).detach().float().cpu() for norm in norms]
        joined = torch.cat(parts) if parts else torch.empty(0)
        found[part] = joined.clamp(min=1e-12).log10() if part == "running_var" else joined
    return found
