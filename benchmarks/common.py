"""What the benchmarks share: names, composed configs, tables, the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from backdoor_lab.config import CONF, register, versions


def names(folder: str, without: Sequence[str] = ()) -> list[str]:
    """Every name of a group, but for some."""
    found = sorted(file.stem for file in (CONF / folder).glob("*.yaml"))
    return [name for name in found if name not in without]


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


def machine() -> str:
    """Its kind, and the versions that were run."""
    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"{platform.machine()} CPU, {os.cpu_count()} cores; {packages}"
