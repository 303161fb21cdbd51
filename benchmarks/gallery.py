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
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from matplotlib.figure import Figure
from torch import Tensor

from backdoor_lab import configuration
from backdoor_lab.configuration import CONF, ROOT
from backdoor_lab.reports.pictures import spectrum
from benchmarks.common import attack_names

ROWS = ("clean", "with trigger", "difference × 10", "its spectrum")


def export(name: str, outputs: Path, overrides: list[str]) -> Path:
    """The file with the triggered test images of one attack's victim."""
    arguments = [f"attack={name}", "export=poisoned", "defense=none", "aux=none"]
    arguments += [f"paths.outputs={outputs}", *overrides]
    subprocess.run([sys.executable, "run.py", *arguments], cwd=ROOT, check=True)
    return max((outputs / "exports").glob("*/test.npz"), key=lambda file: file.stat().st_mtime)


def test_images(overrides: list[str]) -> Tensor:
    """Clean test images (N, C, H, W) uint8 of the data set."""
    configuration.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides)
    images: Tensor = instantiate(cfg.dataset, _convert_="all").load().test.images
    return images


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
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_args()
    outputs = ROOT / "outputs" / f"attacks_{chosen.name}"
    clean = test_images(chosen.overrides)
    names = [name for name in attack_names() if name != "none"]
    files = {name: export(name, outputs, chosen.overrides) for name in names}
    strips = {name: strip(file, clean, chosen.which) for name, file in files.items()}
    draw(Path(__file__).parent / f"gallery_{chosen.name}.png", strips)


if __name__ == "__main__":
    main()
