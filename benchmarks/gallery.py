"""One page with every attack: clean, triggered, 10 x difference, spectrum of the difference.

    python -m benchmarks.gallery                       # victims of benchmarks.attacks, seed 0
    python -m benchmarks.gallery --name cifar10 dataset=cifar10 recipe=quick

Exports the triggered test images of each victim through the command line (`export=poisoned`) and
writes `benchmarks/gallery_<name>.png`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from backdoor_lab.config import ROOT
from backdoor_lab.records import collect
from backdoor_lab.reports.pictures import spectrum
from backdoor_lab.run.building import build
from benchmarks.common import attack_names, composed

ROWS = ("clean", "with trigger", "difference × 10", "its spectrum")


def export(names: list[str], outputs: Path, seed: int, overrides: list[str]) -> dict[str, Path]:
    """The files with the triggered test images of the attacks' victims."""
    options = [f"attack={','.join(names)}", "export=poisoned", f"seed={seed}"]
    options += [f"paths.outputs={outputs}", *overrides]
    subprocess.run([sys.executable, "run.py", "-m", *options], cwd=ROOT, check=True)
    return {
        record.choices["attack"]: folder / "test.npz"
        for folder, record in collect(outputs).items()
        if (record.task, record.seed) == ("export", seed)
    }


def strip(file: Path, clean: Tensor, which: int) -> list[Tensor]:
    """The four pictures (C, H, W) uint8 of the triggered image number `which`."""
    held = np.load(file)
    triggered = torch.from_numpy(held["images"][which]).permute(2, 0, 1)
    before = clean[int(held["index"][which])]
    difference = triggered.int() - before.int()
    amplified = (128 + 10 * difference).clamp(0, 255).to(torch.uint8)
    return [before, triggered, amplified, spectrum(difference[None])[0]]


def draw(path: Path, strips: dict[str, list[Tensor]]) -> None:
    """A column an attack."""
    figure = Figure(figsize=(1.2 * len(strips) + 0.8, 5.3), dpi=150, layout="constrained")
    grid = figure.subplots(len(ROWS), len(strips), squeeze=False)
    for column, (name, pictures) in enumerate(strips.items()):
        grid[0, column].set_title(name, fontsize=10)
        for axes, picture in zip(grid[:, column], pictures, strict=True):
            pixels = picture[0] if len(picture) == 1 else picture.permute(1, 2, 0)
            axes.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    for axes, name in zip(grid[:, 0], ROWS, strict=True):
        axes.set_ylabel(name, fontsize=10)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="digits", help="of the outputs of benchmarks.attacks")
    parser.add_argument("--which", type=int, default=8, help="number of the triggered image")
    parser.add_argument("--attacks", nargs="+", default=attack_names()[1:], help="all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_args()
    outputs = ROOT / "outputs" / f"attacks_{chosen.name}"
    files = export(chosen.attacks, outputs, chosen.seed, chosen.overrides)
    clean = build(composed(*chosen.overrides), "dataset").load().test.images
    strips = {name: strip(file, clean, chosen.which) for name, file in files.items()}
    draw(Path(__file__).parent / f"gallery_{chosen.name}.png", strips)


if __name__ == "__main__":
    main()
