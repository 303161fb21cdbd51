"""Pictures of an inspection: the scores of each class, and inverted triggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from backdoor_lab.records import Evidence, Inspection, Record
from backdoor_lab.reports.inspection import by_detector, verdicts
from backdoor_lab.reports.pictures import show_rows
from backdoor_lab.reports.style import FAINT, INK
from backdoor_lab.reports.table import run_title

if TYPE_CHECKING:
    from torch import Tensor

MOST = 20  # classes in a picture
COLORS = ("#D55E00", "#0072B2", "#999999", "#009E73", "#CC79A7", "#E69F00")


def evidence_picture(folder: Path, record: Record) -> dict[str, Path]:
    """Write `evidence.png`: the scores by class of each detector, a colour a model."""
    found = record.inspection or Inspection()
    scored = {
        name: by_model
        for name, by_model in by_detector(found).items()
        if any(one.scores for one in by_model.values())
    }
    rows = max(1, len(scored))
    figure = Figure(figsize=(8.4, 0.8 + 2.3 * rows), dpi=150, layout="constrained")
    grid = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for axes, (name, by_model) in zip(grid, scored.items(), strict=False):
        _bars(axes, name, by_model, verdicts(by_model, found.planted))
    if not scored:
        grid[0].axis("off")
        grid[0].text(0.5, 0.5, "no detector gave scores by class", ha="center", color=FAINT)
    figure.suptitle(run_title(record), color=INK, fontsize=12)
    file = folder / "evidence.png"
    figure.savefig(file)
    return {"evidence": file}


def _bars(
    axes: Axes, name: str, by_model: Mapping[str, Evidence], words: Mapping[str, str]
) -> None:
    """The scores of one detector, side by side for each class; stars mark suspected classes."""
    width = 0.8 / len(by_model)
    for number, (model, one) in enumerate(by_model.items()):
        ticks = [tick + (number + 0.5) * width - 0.4 for tick in range(len(one.scores))]
        color = COLORS[number % len(COLORS)]
        label = f"{model}: {words[model]}"
        axes.bar(ticks, list(one.scores.values()), width * 0.9, color=color, label=label)
        for tick, (label_, score) in zip(ticks, one.scores.items(), strict=True):
            if label_ in one.suspected:
                axes.text(tick, score, "★", ha="center", va="bottom", color=INK, fontsize=9)
    names = list(next(iter(by_model.values())).scores)
    axes.set_xticks(range(len(names)), names, color=INK, fontsize=8)
    axes.set_ylabel(name, color=INK, fontsize=9)
    axes.tick_params(length=0, colors=INK)
    axes.margins(y=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))


def draw_evidence(
    folder: Path, model: str, shown: Mapping[str, Tensor], classes: Sequence[str]
) -> dict[str, Path]:
    """Write `inverted_<model>.png`: what detectors found for each class, rows of uint8 images."""
    if not shown:
        return {}
    rows = {name.replace(": ", "\n"): images[:MOST] for name, images in shown.items()}
    count = len(next(iter(rows.values())))
    size = (1.0 * count + 1.6, 1.15 * len(rows) + 0.9)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    show_rows(figure, rows, list(classes[:count]))
    figure.suptitle(f"What leads to each class: {model}", color=INK, fontsize=12)
    note = "found by optimisation; what a picture shows need not be what an attacker used"
    figure.supxlabel(note, color=FAINT, fontsize=9)
    file = folder / f"inverted_{model}.png"
    figure.savefig(file)
    return {f"inverted_{model}": file}
