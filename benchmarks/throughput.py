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
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from backdoor_lab import configuration
from backdoor_lab.datasets import DataSpec, ImageSet
from backdoor_lab.models import Classifier
from backdoor_lab.training import Batches, CropFlip, Engine

CLASSES = tuple("0123456789")
SPEC = DataSpec("noise", CLASSES, (3, 32, 32), (0.5,) * 3, (0.25,) * 3, 4, True)


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


def model_of(name: str) -> Classifier:
    """A fresh classifier of conf/model/`name`."""
    configuration.register()
    with initialize_config_dir(str(configuration.CONF), version_base="1.3"):
        cfg = compose("config", [f"model={name}"])
    classifier: Classifier = instantiate(cfg.model).build(SPEC, seed=0)
    return classifier.train()


def plain_steps(model: Classifier, batches: Iterator, device: torch.device) -> Callable[[], None]:
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


def lab_steps(model: Classifier, batches: Iterator, engine: Engine) -> Callable[[], None]:
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


def forever(batches: object) -> Iterator:
    """The batches again and again."""
    while True:
        yield from batches  # type: ignore[misc]


def seconds(step: Callable[[], None], count: int, device: torch.device) -> float:
    """Seconds per step, the device's work included."""
    start = time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


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
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (chosen.batch * 20, 32, 32, 3), dtype=np.uint8)
    loader = DataLoader(PILImages(pixels), chosen.batch, True, num_workers=chosen.workers)
    stored = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    data = ImageSet.of(stored, torch.arange(len(stored)) % 10).to(engine.device)
    batches = Batches(data, chosen.batch, augment=CropFlip(4, True))
    fast = model_of(chosen.model).to(engine.device, memory_format=torch.channels_last)
    plain = plain_steps(model_of(chosen.model).to(engine.device), forever(loader), engine.device)
    lab = lab_steps(fast, forever(batches), engine)
    cut = forever(batches)
    ways = {"plain": plain, "lab": lab, "data": lambda: next(cut)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(chosen.rounds + 1):
        for name, step in ways.items():
            spent = seconds(step, chosen.steps, engine.device)
            if number:  # the first round warms up
                times[name].append(spent)
    report(chosen, engine, times)


def report(chosen: argparse.Namespace, engine: Engine, times: dict[str, list[float]]) -> None:
    """Medians, spread and ratios."""
    out = Console(soft_wrap=True)
    out.print(
        f"{chosen.model}, batch {chosen.batch}, 32 px, {engine.precision}, {engine.device.type}, "
        f"{os.cpu_count()} cores {platform.machine()}, torch {torch.__version__}, "
        f"{chosen.rounds} rounds of {chosen.steps} steps"
    )
    for name in ("plain", "lab"):
        rates = [chosen.batch / spent for spent in times[name]]
        out.print(
            f"{name}: {statistics.median(rates):.0f} images/s "
            f"({min(rates):.0f} to {max(rates):.0f})"
        )
    ratios = [a / b for a, b in zip(times["plain"], times["lab"], strict=True)]
    shares = [a / b for a, b in zip(times["data"], times["lab"], strict=True)]
    out.print(f"lab / plain: {statistics.median(ratios):.2f}x")
    out.print(f"data: {100 * statistics.median(shares):.1f}% of a lab step")


if __name__ == "__main__":
    main()
