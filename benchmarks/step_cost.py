"""What a step of each victim's training costs, beside a step of clean training.

    python -m benchmarks.step_cost --steps 20 --rounds 5
    python -m benchmarks.step_cost --model preact_resnet18 --attacks badnets wanet input_aware

The same images, model, batch and precision; the attacks take turns with clean training within each
round, and a ratio is the median over rounds of (attack / clean), each the median step of its turn.
`operations` is the ratio of what both steps compute in convolutions and products: what extra passes
must cost. Writes `benchmarks/step_cost_<model>.md`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode

from backdoor_lab import configuration
from backdoor_lab.attacks import Attack
from backdoor_lab.configuration import CONF
from backdoor_lab.datasets import Data, DataSpec, ImageSet
from backdoor_lab.store import Store, Workshop
from backdoor_lab.training import Engine, Recipe
from backdoor_lab.victims import clean_model
from benchmarks.common import attack_names, machine, markdown

BATCH = 128
SPEC = DataSpec("noise", tuple("0123456789"), (3, 32, 32), (0.5,) * 3, (0.25,) * 3, 4, True)


class StepClock(Callback):
    """Seconds of each step, the device's work included; operations of the first."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.operations = 0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if not self.operations:
            self.counter = FlopCounterMode(display=False)
            self.counter.__enter__()
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        if not self.operations:
            self.counter.__exit__(None, None, None)
            self.operations = self.counter.get_total_flops()
        else:
            self.seconds.append(time.perf_counter() - self.start)


def workshop(model: str, steps: int, folder: Path) -> Workshop:
    """Random images for one epoch of `steps` steps."""
    draw = torch.Generator().manual_seed(0)
    count = BATCH * steps
    pixels = torch.randint(0, 256, (count, *SPEC.shape), generator=draw, dtype=torch.uint8)
    images = ImageSet.of(pixels, torch.arange(count) % 10)
    data = Data(SPEC, images, images.take(torch.arange(0)), images, "noise", len(images))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        factory = instantiate(compose("config", [f"model={model}"]).model)
    identity = {"dataset": {"name": "noise"}, "model": model, "recipe": 1, "seed": 0, "root": None}
    recipe = Recipe(epochs=1, batch_size=BATCH, lr=0.01)
    means = (recipe, factory, Engine(progress=False), Store(folder))
    return Workshop(data, *means, "noise", identity, clean_model)


def attack_of(name: str, shop: Workshop) -> Attack:
    """The attack as for photographs, at full width; what it learns first is cut short."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["dataset=cifar10", f"attack={name}", "experiment=short"])
        attack: Attack = instantiate(cfg.attack, _convert_="all")
    attack.attach(SPEC, shop.recipe, seed=0)
    return attack


def turn(name: str, shop: Workshop) -> tuple[float, int]:
    """Median seconds and operations of a step of the victim's own training."""
    attack = attack_of(name, shop)
    clock = StepClock()
    attack.callbacks = [*attack.callbacks, clock]
    for inner in attack.children():
        if isinstance(inner, Attack):
            inner.callbacks = [*inner.callbacks, clock]
    attack.train_victim(shop.factory.build(SPEC, 0), shop)
    return statistics.median(clock.seconds), clock.operations


def measure(
    names: list[str], shop: Workshop, rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Ratios to clean training by attack: of time, one a round, and of operations."""
    ratios: dict[str, list[float]] = {name: [] for name in names}
    operations: dict[str, float] = {}
    for number in range(rounds + 1):
        for name in names:
            clean, base = turn("none", shop)
            spent, count = turn(name, shop)
            operations[name] = count / base
            if number:  # the first round warms up
                ratios[name].append(spent / clean)
    return ratios, operations


def table(ratios: dict[str, list[float]], operations: dict[str, float]) -> str:
    """Markdown: a row an attack."""
    rows = [
        (
            name,
            f"{statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f})",
            f"{operations[name]:.3f}",
        )
        for name, times in ratios.items()
    ]
    return markdown(("attack", "time", "operations"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="preact_resnet18_narrow")
    parser.add_argument("--attacks", nargs="+", default=attack_names()[1:], help="all by default")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    configuration.register()
    with tempfile.TemporaryDirectory() as folder:
        shop = workshop(chosen.model, chosen.steps, Path(folder))
        measured = measure(chosen.attacks, shop, chosen.rounds)
    text = [
        "# A step of each victim's training over a step of clean training",
        f"{chosen.model}, batch {BATCH}, 32 px, {shop.engine.precision}; medians (least to most) "
        f"over {chosen.rounds} rounds of {chosen.steps} steps, {machine()}.",
        "Attacks have the values of `dataset=cifar10`, and what they learn first is cut short; a "
        "step of sbl is one of its second stage.",
        table(*measured),
    ]
    file = Path(__file__).with_name(f"step_cost_{chosen.model}.md")
    file.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
