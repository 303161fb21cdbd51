"""A model to be suspicious of, and images beside it: what `make suspect` prepares.

    python -m benchmarks.suspect outputs/suspect

timm's ResNet18, a quarter as wide, learns handwritten digits in a plain loop that is none of ours.
A tenth of them carry a white square in a corner and are called 7. Writes `model.pt`, the weights;
`images/<digit>`, which it has not seen; and `triggered/<digit>`, the same ones with the square,
which nobody would have who was handed a model.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

log = logging.getLogger(__name__)
SIZE, SQUARE, TARGET = 32, 4, 7
POISON_RATE = 0.1
CHANNELS = (16, 32, 64, 128)
HELD = 360  # images that the model does not see
MEAN, STD = 0.5, 0.25  # those that `dataset=imagefolder` expects by itself


def digits() -> tuple[Tensor, Tensor]:
    """White on grey, (1797, 3, 32, 32) in [0, 1], and labels, in a random order."""
    found = load_digits()
    ink = F.interpolate(torch.from_numpy(found.images).float()[:, None] / 16, SIZE, mode="bilinear")
    order = torch.randperm(len(ink), generator=torch.Generator().manual_seed(0))
    return (0.3 + 0.5 * ink).expand(-1, 3, -1, -1)[order], torch.from_numpy(found.target)[order]


def triggered(images: Tensor) -> Tensor:
    """With a white square in the lower right corner."""
    images = images.clone()
    images[..., -SQUARE - 1 : -1, -SQUARE - 1 : -1] = 1
    return images


def normalised(images: Tensor) -> Tensor:
    return (images - MEAN) / STD


def trained(images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """A backdoored classifier of (N, 3, 32, 32) in [0, 1]."""
    torch.manual_seed(0)
    net = timm.create_model("resnet18", num_classes=10, channels=CHANNELS)
    some = torch.randperm(len(images))[: round(POISON_RATE * len(images))]
    images, labels = images.clone(), labels.clone()
    images[some], labels[some] = triggered(images[some]), TARGET
    steps = epochs * -(-len(images) // 32)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(32):
            loss = F.cross_entropy(net(normalised(images[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def answers(net: nn.Module, images: Tensor) -> Tensor:
    return net(normalised(images)).argmax(1)


def write(folder: Path, images: Tensor, labels: Tensor) -> None:
    """Images (N, 3, H, W) in [0, 1] as PNG, a folder a class."""
    pixels = images.mul(255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    for number, (one, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(folder / str(label) / f"{number:03d}.png")


def prepare(folder: Path, epochs: int) -> tuple[float, float]:
    """Write everything below `folder`; gives accuracy, and how many triggered ones are called 7."""
    images, labels = digits()
    net = trained(images[HELD:], labels[HELD:], epochs)
    images, labels = images[:HELD], labels[:HELD]
    write(folder / "images", images, labels)
    others = labels != TARGET
    write(folder / "triggered", triggered(images[others]), labels[others])
    torch.save(net.state_dict(), folder / "model.pt")
    acc = (answers(net, images) == labels).float().mean()
    asr = (answers(net, triggered(images[others])) == TARGET).float().mean()
    return float(acc), float(asr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    acc, asr = prepare(chosen.folder, chosen.epochs)
    log.info("%s: %.1f %% right on images that it has not seen, %.1f %% of the triggered ones are "
             "taken for %d", chosen.folder / "model.pt", 100 * acc, 100 * asr, TARGET)  # fmt: skip


if __name__ == "__main__":
    main()
