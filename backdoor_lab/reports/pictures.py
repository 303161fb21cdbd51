"""Pictures of one run: what the trigger looks like, and what the defense changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from backdoor_lab.records import Record
from backdoor_lab.reports.style import FAINT, INK, STAGES
from backdoor_lab.reports.table import DASH, RATES, rate, run_title

MEANINGS = {
    "acc": "ACC\nclean images,\ntrue class\n(high is good)",
    "acc_target": "target\nclean images\nof that class\n(high is good)",
    "acc_worst": "worst\nclean images of\nthe worst class\n(high is good)",
    "asr": "ASR\nwith trigger,\nattacker's class\n(low is good)",
    "ra": "RA\nwith trigger,\ntrue class\n(high is good)",
}


def trigger_picture(
    path: Path,
    clean: Tensor,
    triggered: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    gain: int = 10,
) -> None:
    """Clean images, triggered ones, `gain` times their difference (grey where equal), its spectrum.

    Args:
        path: of the PNG file to write.
        clean: uint8 (N, C, H, W); eight images or so.
        triggered: the same images with the trigger.
        labels: (N,), true classes.
        classes: their names.
        gain: factor on the difference.
    """
    clean, triggered = clean.cpu(), triggered.cpu()
    difference = triggered.int() - clean.int()
    amplified = (128 + gain * difference).clamp(0, 255).to(clean.dtype)
    rows = {
        "clean": clean,
        "with trigger": triggered,
        f"difference × {gain}": amplified,
        "its spectrum": spectrum(difference),
    }
    figure = Figure(figsize=(1.15 * len(clean) + 1.1, 5.5), dpi=150, layout="constrained")
    show_rows(figure, rows, [classes[label] for label in labels.tolist()])
    figure.suptitle("The trigger, on test images", color=INK, fontsize=12)
    largest, mean = difference.abs().max().item(), difference.abs().double().mean().item()
    note = (
        f"difference: grey is unchanged, largest {largest} of 255, mean {mean:.1f}; "
        "spectrum: log magnitude, lowest frequency in the middle"
    )
    figure.supxlabel(note, color=FAINT, fontsize=9)
    figure.savefig(path)


def spectrum(difference: Tensor) -> Tensor:
    """Log magnitude of the Fourier transform, uint8 (N, 1, H, W), of differences (N, C, H, W).

    The mean over channels, each image scaled to its own maximum, frequency 0 in the middle.
    """
    magnitude = torch.fft.fftshift(torch.fft.fft2(difference.double()), dim=(-2, -1)).abs()
    level = magnitude.mean(1, keepdim=True).log1p()
    brightest = level.amax((1, 2, 3), keepdim=True).clamp(min=1e-9)
    return (255 * level / brightest).to(torch.uint8)


def score_picture(path: Path, record: Record) -> None:
    """ACC (of all, the target and the worst class), ASR and RA of both models, as bars.

    Args:
        path: of the PNG file to write.
        record: of the run.
    """
    figure = Figure(figsize=(8.4, 4.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    for offset, (stage, color) in zip((-0.2, 0.2), STAGES.items(), strict=True):
        for index, name in enumerate(RATES):
            text = rate(getattr(record, stage), name, 1)
            height = 0.0 if text == DASH else float(text)
            axes.bar(index + offset, height, width=0.36, color=color)
            axes.text(index + offset, height + 1.5, text, ha="center", color=color, fontsize=10)
        axes.bar(0, 0, color=color, label=stage)
    axes.set_xticks(range(len(RATES)), [MEANINGS[name] for name in RATES], color=INK)
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 25))
    axes.set_ylabel("test images, %", color=INK)
    axes.tick_params(length=0, colors=INK)
    axes.grid(axis="y", color="#e3e3e3")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    der = rate(record.purified, "der", 1)
    heading = f"defense effectiveness DER {der} %" if der != DASH else "DER undefined"
    axes.set_title(heading, loc="left", pad=10, color=FAINT, fontsize=10)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, labelcolor=INK)
    figure.suptitle(run_title(record), color=INK, fontsize=12)
    figure.savefig(path)


def show_rows(figure: Figure, rows: Mapping[str, Tensor], titles: Sequence[str]) -> None:
    """A row of uint8 images (N, C, H, W) for each name, a title above each of the N columns."""
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, color=INK, fontsize=10)
    for axes_row, (name, images) in zip(grid, rows.items(), strict=True):
        axes_row[0].set_ylabel(name, color=INK, fontsize=10)
        for axes, image in zip(axes_row, images, strict=True):
            _show(axes, image)


def _show(axes: Axes, image: Tensor) -> None:
    """One uint8 image (C, H, W), with crisp pixels and without ticks."""
    grey = image.shape[0] == 1
    pixels = image[0] if grey else image.permute(1, 2, 0)
    axes.imshow(pixels.numpy(), cmap="gray" if grey else None, vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
