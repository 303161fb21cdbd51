"""The cells of a grid, composed and checked: what several have in common is done once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from backdoor_lab.config.checks import refuse_seeds
from backdoor_lab.config.facts import looks
from backdoor_lab.config.hardware import cores_here
from backdoor_lab.config.identity import run_identity
from backdoor_lab.config.machine import refuse_auto
from backdoor_lab.console import progress_bar
from backdoor_lab.errors import ConfigError
from backdoor_lab.records import written
from backdoor_lab.run.cells import Cell, is_plain, parsed
from backdoor_lab.run.finished import CODE, State, state_of
from backdoor_lab.run.gate import UNFIT, gate, one_line
from backdoor_lab.run.made import Maker

SEEDS = ("seed", "defender_seed")  # they shape no part of a run
Row = Sequence[tuple[str, ...]]
ROW = 100  # cells that are handed to a process at a time; fewer than two rows take none


@dataclass
class Checker:
    """Composes and checks cells one after another, quickly where neighbours are alike.

    Hydra takes a tenth of a second to compose. Where two cells differ in plain values alone, these
    are changed in what was composed last, as Hydra does at the end of a composition; where they
    differ in seeds alone, their parts are built and checked once.

    Attributes:
        elsewhere: whether cells run on other machines, whose devices are not asked for here.
    """

    overrides: tuple[str, ...] = ()
    config: DictConfig | None = None
    known: dict[tuple[str, ...], tuple[str, Maker]] = field(default_factory=dict)
    built: set[tuple[str, ...]] = field(default_factory=set)
    elsewhere: bool = False

    def cell(self, overrides: tuple[str, ...]) -> Cell:
        """A cell as Hydra will run it; what is finished needs no part, and no torch.

        Raises:
            ConfigError: it cannot work.
        """
        cell = self.found(overrides)
        like = without_seeds(overrides)
        if not cell.current and like not in self.built:
            from backdoor_lab.run.parts import Parts

            cfg = self.compose(overrides)
            Parts.built(without_gpu(cfg) if self.elsewhere else cfg)
            self.built.add(like)
        return cell

    def found(self, overrides: tuple[str, ...]) -> Cell:
        """A cell, and what there is of it; its parts are not built.

        Raises:
            ConfigError: its config alone tells that it cannot work.
        """
        cfg = self.compose(overrides)
        if looks(cfg):
            raise ConfigError("task: this one only looks; allowed: without -m, one command")
        like = without_seeds(overrides)
        if like not in self.known:
            gate(cfg, "sweep.subdir")
            if self.elsewhere:
                refuse_auto(cfg)
            self.known[like] = CODE.of(run_identity(cfg)), Maker.of(cfg)
        refuse_seeds(cfg)
        code, maker = self.known[like]
        folder = Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir
        state = state_of(cfg, folder, code)[1]
        stale = written(folder) if state in (State.ABSENT, State.STALE) else None
        victim = maker.victim(cfg.seed)
        waits_for = str(folder) if victim.is_dir() else victim.name
        return Cell(overrides, folder, code, waits_for, state is State.CURRENT, stale)

    def compose(self, overrides: tuple[str, ...]) -> DictConfig:
        """The config of a cell, Hydra's own node included; it serves until the next call."""
        held, self.config = self.config, None  # a value that does not fit leaves none
        if held is not None and alike(overrides, self.overrides):
            for one in set(overrides).difference(self.overrides):
                OmegaConf.update(held, parsed(one).key_or_group, parsed(one).value(), merge=True)
        else:
            held = compose("config", list(overrides), return_hydra_config=True)
        self.config, self.overrides = held, overrides
        return held


def without_gpu(cfg: DictConfig) -> DictConfig:
    """A config for a machine that has no GPU, such as one from which jobs are sent."""
    copied = deepcopy(cfg)
    if copied.trainer.accelerator == "gpu":
        copied.trainer.accelerator = "cpu"
    return copied


def without_seeds(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """What shapes the parts of a run."""
    return tuple(one for one in overrides if parsed(one).key_or_group not in SEEDS)


def alike(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two cells set the same keys, and differ in plain values alone."""
    return len(one) == len(other) and all(
        a == b or (is_plain(a) and is_plain(b) and parsed(a).key_or_group == parsed(b).key_or_group)
        for a, b in zip(one, other, strict=True)
    )


def check_all(grid: Sequence[tuple[str, ...]], elsewhere: bool = False) -> list[Cell | str]:
    """Each cell of a grid, or the sentence that refuses it; many are spread over the cores.

    Args:
        grid: the overrides of each cell.
        elsewhere: whether cells run on other machines.
    """
    order = sorted(range(len(grid)), key=lambda number: choices(grid[number]))
    ordered = [grid[number] for number in order]
    rows = [ordered[start : start + ROW] for start in range(0, len(ordered), ROW)]
    found: list[Cell | str] = []
    check = partial(checked_row, elsewhere=elsewhere)
    with spread(rows, check) as checked_rows, progress_bar(len(rows) > 1) as bar:
        for row in bar.track(checked_rows, total=len(rows), description="checking cells"):
            found += row
    by_number = dict(zip(order, found, strict=True))
    return [by_number[number] for number in range(len(grid))]


def choices(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """What takes a composition of its own."""
    return tuple(one for one in overrides if not is_plain(one))


@contextmanager
def spread(
    rows: Sequence[Row], check: Callable[[Row], list[Cell | str]]
) -> Iterator[Iterable[list[Cell | str]]]:
    """Rows of cells as they are checked, by copies of this process where it can have some."""
    processes = min(cores_here(), len(rows) // 2)
    if processes < 2 or "fork" not in multiprocessing.get_all_start_methods():
        yield map(check, rows)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
        try:
            yield pool.map(check, rows)
        finally:
            pool.shutdown(cancel_futures=True)


def checked_row(row: Row, elsewhere: bool) -> list[Cell | str]:
    """Some cells, by one checker."""
    checker = Checker(elsewhere=elsewhere)
    return [checked(overrides, checker) for overrides in row]


def checked(overrides: tuple[str, ...], checker: Checker) -> Cell | str:
    """A cell, or the sentence that refuses it."""
    try:
        return checker.cell(overrides)
    except UNFIT as error:
        return one_line(error)
