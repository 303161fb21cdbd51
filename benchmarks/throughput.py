"""Images per second of victim training, against a plain DataLoader loop, side by side.

    python -m benchmarks.throughput --model preact_resnet18_narrow --batch 128 --steps 30

`plain` is the kind of loop that the field's benchmarks run: PIL images, per-image transforms in a
DataLoader, fp32, contiguous tensors, a metric read at each step. `lab` is this project's way.
`data` is the share of a lab step that cutting and augmenting the batch takes. The ways alternate,
and each figure is the median over rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from backdoor_lab.console import console
from backdoor_lab.models import Classifier
from backdoor_lab.run.building import build
from backdoor_lab.training import Batches, CropFlip, Engine
from benchmarks.common import composed
from benchmarks.noise import SPEC, noise

Pairs = Iterator[tuple[Tensor, Tensor]]
Step = Callable[[], object]
Times = dict[str, list[float]]


class PILImages(TorchDataset[tuple[Tensor, int]]):
    """PIL images with transforms per image, read one by one."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        steps = [transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose([*steps, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), index % 10


def plain_step(model: Classifier, batches: Pairs, device: torch.device) -> Step:
    """One step of the plain loop."""
    sgd = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4)

    def step() -> None:
        images, labels = next(batches)
        images, labels = images.to(device), labels.to(device)
        sgd.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        sgd.step()
        loss.item(), (logits.argmax(1) == labels).sum().item()

    return step


def lab_step(model: Classifier, batches: Pairs, engine: Engine) -> Step:
    """One step as the engine trains."""
    sgd = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4)

    def step() -> None:
        images, labels = next(batches)
        with engine.autocast():
            loss = F.cross_entropy(model(images), labels)
        sgd.zero_grad()
        loss.backward()
        sgd.step()

    return step


def forever(batches: Iterable[tuple[Tensor, Tensor]]) -> Pairs:
    """The batches again and again."""
    while True:
        yield from batches


def ways(chosen: argparse.Namespace, engine: Engine) -> dict[str, Step]:
    """What is timed, by name; each way has a model and batches of its own."""
    stored, device = noise(chosen.batch * 20), engine.device
    pixels = stored.images.permute(0, 2, 3, 1).numpy()
    loader = DataLoader(PILImages(pixels), chosen.batch, True, num_workers=chosen.workers)
    batches = Batches(stored.to(device), chosen.batch, augment=CropFlip(4, True))
    factory = build(composed(f"model={chosen.model}"), "model")
    slow, fast = (factory.build(SPEC, seed=0).train().to(device) for _ in range(2))
    cut = forever(batches)
    return {
        "plain": plain_step(slow, forever(loader), device),
        "lab": lab_step(fast.to(memory_format=torch.channels_last), forever(batches), engine),
        "data": lambda: next(cut),
    }


def seconds(step: Step, count: int, device: torch.device) -> float:
    """Seconds per step, the device's work included."""
    start = time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def report(chosen: argparse.Namespace, engine: Engine, times: Times) -> str:
    """Medians, spread and ratios."""
    lines = [
        f"{chosen.model}, batch {chosen.batch}, 32 px, {engine.precision}, {engine.device.type}, "
        f"{os.cpu_count()} cores {platform.machine()}, torch {torch.__version__}, "
        f"{chosen.rounds} rounds of {chosen.steps} steps"
    ]
    for name in ("plain", "lab"):
        rates = [chosen.batch / spent for spent in times[name]]
        spread = f"({min(rates):.0f} to {max(rates):.0f})"
        lines.append(f"{name}: {statistics.median(rates):.0f} images/s {spread}")
    ratios = [a / b for a, b in zip(times["plain"], times["lab"], strict=True)]
    shares = [a / b for a, b in zip(times["data"], times["lab"], strict=True)]
    lines.append(f"lab / plain: {statistics.median(ratios):.2f}x")
    lines.append(f"data: {100 * statistics.median(shares):.1f}% of a lab step")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="preact_resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    engine = Engine(precision=chosen.precision, progress=False)
    steps = ways(chosen, engine)
    times: Times = {name: [] for name in steps}
    for number in range(chosen.rounds + 1):
        for name, step in steps.items():
            spent = seconds(step, chosen.steps, engine.device)
            if number:  # the first round warms up
                times[name].append(spent)
    console().print(report(chosen, engine, times), soft_wrap=True)


if __name__ == "__main__":
    main()
