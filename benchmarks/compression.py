"""What compression saves: parameters, FLOPs and latency, dense beside compressed in one run.

    python -m benchmarks.compression

Fresh weights, since the ranks alone decide what a model costs. In each round the models take turns;
a ratio is the median over rounds of (compressed / dense). Writes `benchmarks/compression.md`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses import Defense
from backdoor_lab.evaluation.costs import measure
from backdoor_lab.papers import printed
from backdoor_lab.records import Cost
from backdoor_lab.run.building import build
from backdoor_lab.training import Engine
from benchmarks.common import composed, machine, markdown, write_page
from benchmarks.noise import SPEC

MODELS = ["resnet18", "preact_resnet18", "preact_resnet18_narrow"]
NOTHING = AuxiliarySet("none", None, False)
WAYS = {
    "cc 2x": ["defense=cc", "defense.compression=2", "defense.parts=scaling_only"],
    "cc 3x": ["defense=cc", "defense.compression=3", "defense.parts=scaling_only"],
    "cc 4x": ["defense=cc", "defense.compression=4", "defense.parts=scaling_only"],
    "clp 2x": ["defense=clp", "defense.compression=2"],
}
HEADS = (
    "model", "precision", "", "parameters, M", "ratio", "FLOPs, M", "ratio", "ms for 64 images",
    "ratio", "printed (resnet18)",
)  # fmt: skip


def models(name: str, engine: Engine) -> dict[str, nn.Module]:
    """The dense model, and it compressed in each way."""
    factory = build(composed(f"model={name}"), "model")
    found: dict[str, nn.Module] = {"dense": factory.build(SPEC, seed=0)}
    for way, words in WAYS.items():
        defense: Defense = build(composed("dataset=cifar10", "aux=none", *words), "defense")
        defense.attach(engine, SPEC, seed=0)
        found[way] = defense.purify(factory.build(SPEC, seed=0), NOTHING)
    return found


def printed_ratios() -> Mapping[str, float]:
    """Latency of C&C's Table 2, compressed over dense, by the names of `WAYS`."""
    rows = [row for row in printed("cc", "2") if row.metric == "latency_ms"]
    dense = next(float(row.value) for row in rows if row.defense == "none")
    times = {f"{row.defense} {row.variant.removeprefix('compression=')}": row.value for row in rows}
    return {way: float(times[way]) / dense for way in WAYS}


def lines(name: str, engine: Engine, rounds: int) -> Iterator[list[object]]:
    """Of one model and precision."""
    both = models(name, engine)
    costs = [measure(both, SPEC, engine) for _ in range(rounds)]
    theirs = printed_ratios()
    for way in both:
        yield [name, engine.precision, way, *figures(way, costs), told(theirs.get(way))]


def figures(way: str, costs: list[dict[str, Cost]]) -> list[object]:
    """Parameters, FLOPs and milliseconds, each with its share of the dense model's."""
    own, dense = costs[0][way], costs[0]["dense"]
    times = [cost[way].latency_ms for cost in costs]
    ratios = sorted(cost[way].latency_ms / cost["dense"].latency_ms for cost in costs)
    return [
        f"{own.parameters / 1e6:.2f}",
        told(own.parameters / dense.parameters),
        f"{own.flops / 1e6:.0f}",
        told(own.flops / dense.flops),
        f"{median(times):.0f}",
        f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
    ]


def told(ratio: float | None) -> str:
    """Two digits, or a dash where nothing is printed."""
    return "–" if ratio is None else f"{ratio:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    engines = [Engine(precision="32-true"), Engine(precision="bf16-mixed")]
    rows = [
        row for name in MODELS for engine in engines for row in lines(name, engine, chosen.rounds)
    ]
    write_page(
        Path(__file__).with_suffix(".md"),
        "Compression: what a smaller model costs",
        "Fresh weights, images of 32 pixels; latency is the median of rounds in which the models "
        "took turns, and its ratio to the dense model's the median (least to largest) over them. "
        "Printed: C&C's Table 2, ResNet18 on its GPU.",
        f"`python -m benchmarks.compression --rounds {chosen.rounds}`, on {machine()}",
        markdown(HEADS, rows),
    )


if __name__ == "__main__":
    main()
