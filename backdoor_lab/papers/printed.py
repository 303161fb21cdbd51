"""Each printed result of the four papers, and the cell of a grid that it belongs to."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
MEANS = "mean"  # printed over attacks; they are made from the other rows
VARIANTS = {  # what sets a row apart from its neighbours, as keys of a grid
    "gic": ("calibration", "gic"),
    "compression=2x": ("defense.compression", "2"),
    "compression=3x": ("defense.compression", "3"),
    "compression=4x": ("defense.compression", "4"),
    "scaling_only": ("defense.parts", "scaling_only"),
    "finetune_only": ("defense.parts", "finetune_only"),
    "labels=soft": ("defense.labels", "soft"),
    "labels=hard": ("defense.labels", "hard"),
    "init=uniform": ("defense.strategy", "uniform"),
    "init=adaptive_increasing": ("defense.strategy", "increasing"),
    "init=adaptive_decreasing": ("defense.strategy", "decreasing"),
    "adaptive_attack": ("attack", "adaptive"),
    "double_unlabeled": ("aux.size", "5000"),
}
PLAIN = {"calibration": "none", "defense.parts": "all", "defense@then": "none"}  # unsaid in print
DATA = {"imagenet10": "imagefolder"}
MODELS = {("cc", "vgg19"): "vgg19_bn"}  # which clp and cc need, though the paper does not say it
UNLABELLED = {  # BCU's images: the defender's share of the test set, or other data in a folder
    "unlabeled": ("reserved", ""),
    "unlabeled_gtsrb": ("external", "gtsrb"),
    "unlabeled_tiny_imagenet": ("external", "tiny-imagenet-200"),
    "unlabeled_tiny_imagenet_pp": ("external", "imagenet"),
}


@dataclass(frozen=True)
class Printed:
    """One number as it stands in a paper.

    Attributes:
        metric: `acc`, `asr`, `der` in percent, `params_m` or `latency_ms`.
        defense: `none` for the victim itself; others may be chained, as `anp+aft`.
        variant: what sets the row apart, in the paper's words; mostly empty.
        value: the printed string.
    """

    paper: str
    table: str
    dataset: str
    model: str
    attack: str
    target_mode: str
    poison_rate: str
    defense: str
    variant: str
    aux: str
    aux_ratio: str
    metric: str
    value: str

    @property
    def name(self) -> tuple[str, ...]:
        """What the numbers of one cell share."""
        return (
            self.dataset, self.model, self.attack, self.target_mode, self.poison_rate,
            self.defense, self.variant, self.aux, self.aux_ratio,
        )  # fmt: skip

    def keys(self) -> dict[str, str]:
        """The keys of a grid whose cell this is, as text; what the table leaves open is absent."""
        defense, _, then = self.defense.partition("+")
        aux, folder = UNLABELLED.get(self.aux, (self.aux, ""))
        found = {
            **PLAIN,
            "dataset": DATA.get(self.dataset, self.dataset),
            "model": MODELS.get((self.paper, self.model), self.model),
            "attack": self.attack,
            "attack.all_to_all": {"all2one": "false", "all2all": "true"}.get(self.target_mode, ""),
            "attack.poison_rate": self.poison_rate,
            "attack.inner.poison_rate": self.poison_rate,
            "defense": defense,
            "defense@then": then or "none",
            "aux": aux,
            "paths.external": folder,
            "aux.ratio": self.aux_ratio,
        }
        if self.variant in VARIANTS:
            key, value = VARIANTS[self.variant]
            if key == "attack":
                found["attack@attack.inner"] = self.attack
            found[key] = value
        return {key: value for key, value in found.items() if value}

    def reasons(self) -> list[str]:
        """Why the number may be wrong in print."""
        return [
            str(one["reason"])
            for one in misprints()
            if all(_fits(str(getattr(self, key)), held) for key, held in one["where"].items())
        ]


def _fits(value: str, held: object) -> bool:
    return value in [str(one) for one in (held if isinstance(held, list) else [held])]


@cache
def everything() -> tuple[Printed, ...]:
    """All printed numbers."""
    with (HERE / "published.csv").open(newline="") as stream:
        return tuple(Printed(**row) for row in csv.DictReader(stream))


@cache
def misprints() -> list[dict[str, Any]]:
    """What looks wrong: which numbers, and why."""
    held: list[dict[str, Any]] = yaml.safe_load((HERE / "misprints.yaml").read_text())
    return held


def printed(paper: str, table: str) -> list[Printed]:
    """The numbers of one table, without its means over attacks or models."""
    rows = (row for row in everything() if (row.paper, row.table) == (paper, table))
    return [row for row in rows if row.attack != MEANS]
