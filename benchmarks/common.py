"""What the benchmarks share: names, composed configs, pages and their tables, the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import cast

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from backdoor_lab.config import CONF, register, versions
from backdoor_lab.config.facts import fact
from backdoor_lab.device import kind_of
from backdoor_lab.records import Record, mean_sd

MEANS = (
    "n", "victim ACC", "ASR", "target", "worst", "purified ACC", "ASR", "target", "worst", "DER",
)  # fmt: skip


def names(folder: str, without: Sequence[str] = ()) -> list[str]:
    """Every name of a group, but for some."""
    found = sorted(file.stem for file in (CONF / folder).glob("*.yaml"))
    return [name for name in found if name not in without]


def data_free() -> list[str]:
    """Defenses that read no image, as their facts say; those of `aft` are `cc`'s as well."""
    return [name for name in names("defense", without=["none"]) if states(name, "data_free")]


def states(name: str, stated: str) -> bool:
    """Whether the yaml of a defense, or one that it starts from, states a fact."""
    node = cast(DictConfig, OmegaConf.load(CONF / "defense" / f"{name}.yaml"))
    starts = [one for one in node.get("defaults", []) if one != "_self_"]
    return bool(fact(node, stated)) or any(states(one, stated) for one in starts)


def attack_names() -> list[str]:
    """Every attack, clean training first: others start from its model."""
    return ["none", *names("attack", without=["none"])]


def composed(*overrides: str) -> DictConfig:
    """The config, as the command line composes it."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def means(found: Sequence[Record]) -> list[str]:
    """How many runs, and the scores of their victims and purified models, as `MEANS` heads them."""
    rates = ("acc", "asr", "acc_target", "acc_worst")
    victims = [mean_sd([getattr(one.victim, rate) for one in found]) for rate in rates]
    purified = [mean_sd([getattr(one.purified, rate) for one in found]) for rate in (*rates, "der")]
    return [str(len(found)), *victims, *purified]


def write_page(file: Path, title: str, about: str, made: str, *blocks: str) -> None:
    """Write a page of tables, and leave on it what was remarked by hand.

    Args:
        file: of the page.
        title: its first line.
        about: what the figures are.
        made: by which command, and on what.
        blocks: the tables, and what follows them.
    """
    head = [f"# {title}", about, f"Made on {date.today()} by {made}."]
    file.write_text("\n\n".join([*head, *remarks(file), *blocks]) + "\n")


def remarks(file: Path) -> list[str]:
    """What was written by hand between the head of an earlier page and its table."""
    if not file.exists():
        return []
    blocks = file.read_text().split("\n\n")
    head, body = (
        next(number for number, block in enumerate(blocks) if block.startswith(start))
        for start in ("Made on", "| ")
    )
    return blocks[head + 1 : body]


def machine() -> str:
    """Its kind, and the versions that were run."""
    return f"{kind_of(torch.device('cpu'))}; {packages(versions())}"


def machines(records: Sequence[Record]) -> str:
    """What computed the records, most of them first, and with which versions, as they tell."""
    kinds = Counter(
        f"{record.device}, {record.precision}" if record.device else "a machine that was not noted"
        for record in records
    )
    told = [f"{kind} ({count} of {len(records)} runs)" for kind, count in kinds.most_common()]
    used = dict.fromkeys(packages(record.versions) for record in records)
    return f"{' and '.join(told)}; {' or '.join(used)}"


def packages(versions: Mapping[str, str]) -> str:
    """Names and versions, in a row."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())
