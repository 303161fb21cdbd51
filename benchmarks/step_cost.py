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
from lightning import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode

from backdoor_lab.attacks import Attack
from backdoor_lab.datasets import Data
from backdoor_lab.run.building import build
from backdoor_lab.store import Provenance, Store
from backdoor_lab.training import Engine, Recipe
from backdoor_lab.victims import Workshop
from benchmarks.common import attack_names, composed, machine, markdown
from benchmarks.noise import SPEC, noise

BATCH = 128
# the steps of sbl's second stage are as large as the others
ALIKE = ("++values_for.sbl.clean_share=0.9", f"++values_for.sbl.second_batch_size={BATCH}")


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
    images = noise(BATCH * steps)
    data = Data(SPEC, images, images.take(torch.arange(0)), images, "noise", len(images))
    identity = {"dataset": {"name": "noise"}, "model": model, "seed": 0}
    recipe = Recipe(epochs=1, batch_size=BATCH, lr=0.01)
    means = (recipe, build(composed(f"model={model}"), "model"), Engine(progress=False))
    return Workshop(data, *means, Store(folder), Provenance(), "noise", identity)


def attack_of(name: str, shop: Workshop) -> Attack:
    """The attack as for photographs, at full width; what it learns first is cut short."""
    cfg = composed("dataset=cifar10", f"attack={name}", "experiment=short", *ALIKE)
    attack: Attack = build(cfg, "attack")
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


def row(name: str, times: list[float], operations: float) -> tuple[str, str, str]:
    """Of the table: the ratios of an attack."""
    spread = f"{statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f})"
    return name, spread, f"{operations:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="preact_resnet18_narrow")
    parser.add_argument("--attacks", nargs="+", default=attack_names()[1:], help="all by default")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shop = workshop(chosen.model, chosen.steps, Path(folder))
        ratios, operations = measure(chosen.attacks, shop, chosen.rounds)
    text = [
        "# A step of each victim's training over a step of clean training",
        f"{chosen.model}, batch {BATCH}, 32 px, {shop.engine.precision}; medians (least to most) "
        f"over {chosen.rounds} rounds of {chosen.steps} steps, {machine()}.",
        "Attacks have the values of `dataset=cifar10`, and what they learn first is cut short; a "
        "step of sbl is one of its second stage.",
        markdown(
            ("attack", "time", "operations"),
            [row(name, times, operations[name]) for name, times in ratios.items()],
        ),
    ]
    file = Path(__file__).with_name(f"step_cost_{chosen.model}.md")
    file.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
