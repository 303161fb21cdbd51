"""The cells of a grid: what each is, and how all lists multiply to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig

from backdoor_lab.config.choices import folder_of
from backdoor_lab.config.places import CONF
from backdoor_lab.records import Record, read_failure, read_record


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        overrides: what it sets.
        folder: of its record.
        code: a digest of the code that shapes it.
        victim: the same for cells that need one victim, and for no others.
        current: whether it was finished before the grid began.
    """

    overrides: tuple[str, ...]
    folder: Path
    code: str
    victim: str
    current: bool = False

    def record(self) -> Record | None:
        """Its result, if the last try left one."""
        record = None if self.failure() else read_record(self.folder)
        current = record and record.made_from and record.made_from.code == self.code
        return record if current else None

    def failure(self) -> Record | None:
        """Why the last try failed, if it did."""
        return read_failure(self.folder)


def victims_first(cells: Iterable[Cell]) -> list[Cell]:
    """The first cell of each victim, then the others: whoever starts later finds them made."""
    met: set[str] = set()
    first: list[Cell] = []
    others: list[Cell] = []
    for cell in cells:
        (others if cell.victim in met else first).append(cell)
        met.add(cell.victim)
    return first + others


def swept(config: DictConfig) -> list[str]:
    """What the command line and a preset (`hydra.sweeper.params`) sweep or set."""
    task = list(config.hydra.overrides.task)
    typed = {override.partition("=")[0] for override in task}
    params = config.hydra.sweeper.get("params") or {}
    return [f"{key}={value}" for key, value in params.items() if key not in typed] + task


def combinations(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """The overrides of each cell of a grid: the product of all lists."""
    choices = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [one.input_line or ""]
        for one in map(parsed, overrides)
    ]
    return list(itertools.product(*choices))


@cache
def is_plain(text: str) -> bool:
    """Whether an override gives a key of the config a number, a word or nothing; no choice does."""
    override = parsed(text)
    key = override.key_or_group
    chooses = override.package is not None or (CONF / folder_of(key)).is_dir()
    nested = key.startswith("hydra.") or isinstance(override.value(), dict | list)
    return override.type is OverrideType.CHANGE and not chooses and not nested


@cache
def parsed(text: str) -> Override:
    """An override, read once."""
    return OverridesParser.create().parse_override(text)
