"""The cells of a grid: what each is, and how all lists multiply to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig

from backdoor_lab.config.choices import folder_of
from backdoor_lab.config.places import CONF
from backdoor_lab.records import Record, read_failure, read_record, written
from backdoor_lab.run.folders import searchpath


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        overrides: what it sets.
        folder: of its record.
        code: a digest of the code that shapes it.
        victim: the same for cells that need one victim which is not made, and for no others.
        current: whether it was finished before the grid began.
        stale: when the result was written that lay there then and does not count: it is of other
            code or data, or to be made again by force.
    """

    overrides: tuple[str, ...]
    folder: Path
    code: str
    victim: str
    current: bool = False
    stale: int | None = None

    def record(self) -> Record | None:
        """Its result, if the last try left one."""
        record = None if self.failure() else read_record(self.folder)
        if record is None or record.made_from is None or record.made_from.code != self.code:
            return None
        return None if self.stale and self.stale == written(self.folder) else record

    def failure(self) -> Record | None:
        """Why the last try failed, if it did."""
        return None if self.current else read_failure(self.folder)

    def why(self) -> str:
        """Why it has no result."""
        if failure := self.failure():
            return str(failure.error)
        return "its result is of other code or data" if written(self.folder) else "left no result"


class NeedsVictim(Protocol):
    """A cell of a grid, or the work that one is."""

    @property
    def victim(self) -> str: ...


C = TypeVar("C", bound=NeedsVictim)


def makers_and_rest(cells: Iterable[C]) -> tuple[list[C], list[C]]:
    """The first cell of each victim, which makes it, and those that need it made."""
    met: set[str] = set()
    makers: list[C] = []
    rest: list[C] = []
    for cell in cells:
        (rest if cell.victim in met else makers).append(cell)
        met.add(cell.victim)
    return makers, rest


def victims_first(cells: Iterable[Cell]) -> list[Cell]:
    """Cells in an order in which whoever starts later finds the victims made."""
    makers, rest = makers_and_rest(cells)
    return makers + rest


def swept(config: DictConfig) -> list[list[str]]:
    """The grids that the command line and a preset (`hydra.sweeper`) ask for: what each sets.

    `params` are the preset's lists. Each of `also` is a grid beside it: the keys that differ from
    `params`, null for one that it does not set. `instead` are values for keys that a preset sets.
    The command line wins; a grid beside whose own key is typed is left out.
    """
    task = [*searchpath(config.hydra), *config.hydra.overrides.task]
    typed = {override.partition("=")[0] for override in task}
    sweeper = config.hydra.sweeper
    instead = sweeper.get("instead") or {}
    grids = []
    for own in ({}, *(sweeper.get("also") or ())):
        if typed.isdisjoint(own):
            params = {**(sweeper.get("params") or {}), **own}
            held = {key: instead.get(key, value) for key, value in params.items()}
            kept = {key: one for key, one in held.items() if one is not None and key not in typed}
            grids.append([f"{key}={value}" for key, value in kept.items()] + task)
    return grids


def combinations(grids: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """The overrides of each cell of some grids, the product of all lists; none is there twice."""
    return list(dict.fromkeys(cell for grid in grids for cell in product(grid)))


def product(overrides: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The overrides of each cell of one grid."""
    choices = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [one.input_line or ""]
        for one in map(parsed, overrides)
    ]
    return itertools.product(*choices)


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
