"""A model to be suspicious of, and images beside it: what `make suspect` prepares.

    python -m benchmarks.suspect outputs/suspect
    python -m benchmarks.suspect outputs/large --size 224 --epochs 6

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
SIZE, TARGET = 32, 7
SHARE = 8  # of an image's side, that of the square
POISON_RATE = 0.1
CHANNELS = (16, 32, 64, 128)
HELD = 360  # images that the model does not see
MEAN, STD = 0.5, 0.25  # those that `dataset=imagefolder` expects by itself


def digits(size: int) -> tuple[Tensor, Tensor]:
    """White on grey, (1797, 3, size, size) in [0, 1], and labels, in a random order."""
    found = load_digits()
    ink = F.interpolate(torch.from_numpy(found.images).float()[:, None] / 16, size, mode="bilinear")
    order = torch.randperm(len(ink), generator=torch.Generator().manual_seed(0))
    return (0.3 + 0.5 * ink).expand(-1, 3, -1, -1)[order], torch.from_numpy(found.target)[order]


def triggered(images: Tensor) -> Tensor:
    """With a white square in the lower right corner, an eighth as wide."""
    images, square = images.clone(), images.shape[-1] // SHARE
    images[..., -square - 1 : -1, -square - 1 : -1] = 1
    return images


def normalised(images: Tensor) -> Tensor:
    return (images - MEAN) / STD


def trained(images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """A backdoored classifier of `images` (N, 3, H, W) in [0, 1]."""
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
    return torch.cat([net(normalised(batch)).argmax(1) for batch in images.split(64)])


def write(folder: Path, images: Tensor, labels: Tensor) -> None:
    """Images (N, 3, H, W) in [0, 1] as PNG, a folder a class."""
    pixels = images.mul(255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    for number, (one, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(folder / str(label) / f"{number:03d}.png")


def judged(net: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy, and the share of other classes' triggered images that are called 7."""
    acc = (answers(net, images) == labels).float().mean()
    asr = (answers(net, triggered(images[labels != TARGET])) == TARGET).float().mean()
    return acc.item(), asr.item()


def prepare(folder: Path, epochs: int, size: int = SIZE) -> tuple[float, float]:
    """Write everything below `folder`; gives accuracy and ASR on the images that are written."""
    images, labels = digits(size)
    net = trained(images[HELD:], labels[HELD:], epochs)
    images, labels = images[:HELD], labels[:HELD]
    others = labels != TARGET
    write(folder / "images", images, labels)
    write(folder / "triggered", triggered(images[others]), labels[others])
    torch.save(net.state_dict(), folder / "model.pt")
    return judged(net, images, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=SIZE, help="pixels of a side")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    acc, asr = prepare(chosen.folder, chosen.epochs, chosen.size)
    log.info("%s: %.1f %% right on images that it has not seen, %.1f %% of the triggered ones are "
             "taken for %d", chosen.folder / "model.pt", 100 * acc, 100 * asr, TARGET)  # fmt: skip


if __name__ == "__main__":
    main()
