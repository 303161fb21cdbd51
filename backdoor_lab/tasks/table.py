"""Table: a grid as a paper sets it out, and what the paper prints beside what came of it."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from backdoor_lab.config.catalogue import comments
from backdoor_lab.config.choices import defaults
from backdoor_lab.config.places import CONF
from backdoor_lab.config.schema import Schema
from backdoor_lab.config.typos import keys
from backdoor_lab.console import say
from backdoor_lab.errors import ConfigError
from backdoor_lab.papers import comparison, printed
from backdoor_lab.records import written
from backdoor_lab.reports.layout import Layout, Place
from backdoor_lab.reports.sheet import write
from backdoor_lab.run.cells import combinations, parsed, swept
from backdoor_lab.run.checking import Checker
from backdoor_lab.run.folders import config_dir, searchpath
from backdoor_lab.run.gate import UNFIT, one_line
from backdoor_lab.tasks._look import Look
from backdoor_lab.validation import validated

TOP = {one.name for one in fields(Schema)}
OWN = ("task", "table")  # choices of this command, which the cells do not have
REPORTS = "reports"  # below paths.outputs


class Tables(Look):
    """The table of the grid that a preset sweeps, from the records below `paths.outputs`.

    Args:
        layout: what its rows, columns and cells are, and which printed table stands beside.
        paths: folders, which a preset may name.
    """

    @validated
    def __init__(self, layout: Layout, paths: dict[str, str | None]) -> None:
        self.layout, self.paths = layout, paths

    def look(self, outputs: Path) -> None:
        refuse_keys(self.layout)
        hydra = HydraConfig.get()
        name, size = (hydra.runtime.choices[group] for group in ("experiment", "size"))
        grid = cells_of(hydra, self.paths)
        if len(grid) < 2:
            raise ConfigError(
                f"experiment={name} sweeps nothing that a table could show; allowed: one of "
                f"{', '.join(presets())}"
            )
        what, _, *about = comments(CONF / "experiment" / f"{name}.yaml")
        title = f"{what.rstrip('.')}; size {size}"
        checker = Checker()
        own = config_dir(hydra)
        places = [place_of(overrides, checker, own) for overrides in grid]
        sheets = [self.layout.sheet(title, places)]
        if self.layout.printed:
            beside = f"{title}: what is printed, and what came of it here"
            kind, *_ = comments(CONF / "size" / f"{size}.yaml")
            typed = [one for one in hydra.overrides.task if not of_this(one)]
            command = shlex.join(["python", "run.py", "-m", *own, *searchpath(hydra), *typed])
            notes = [f"Made by `{command}`.", f"Size {size}: {kind}", *about]
            alike = [without(place, hydra.sweeper.get("instead") or {}) for place in places]
            sheets.append(comparison(beside, printed(*self.layout.printed), alike, notes))
        files = write(sheets, outputs / REPORTS / "tables" / f"{name}-{size}")
        say([sheets[0].title, "", sheets[0].table(".md"), "", *sheets[0].notes])
        say(f"Written: {file}" for file in files)


def refuse_keys(layout: Layout) -> None:
    """Refuse rows, columns and conditions that are no keys of the config."""
    for part in ("rows", "columns", "over", "where"):
        for key in getattr(layout, part):
            group, _, own = key.partition("@")[0].partition(".")
            below = not own or group not in defaults() or own.partition(".")[0] in keys(group)
            if not (group in TOP and below):
                raise ConfigError(
                    f"table.{part} names {key}, which is no key; allowed: what a grid may sweep, "
                    "such as attack or aux.ratio"
                )


def cells_of(hydra: HydraConf, paths: dict[str, str | None]) -> list[tuple[str, ...]]:
    """The overrides of each cell of the grid that a command without `-m` names."""
    grids = swept(OmegaConf.create({"hydra": hydra, "paths": paths}))
    return combinations([one for one in grid if not of_this(one)] for grid in grids)


def of_this(override: str) -> bool:
    """Whether it is of this command, and not of the grid's."""
    return parsed(override).key_or_group.partition(".")[0] in OWN


def place_of(overrides: tuple[str, ...], checker: Checker, own: Sequence[str]) -> Place:
    """A cell, what came of it, and the command that makes it."""
    keys = {one.get_key_element(): str(one.value()) for one in map(parsed, overrides)}
    axes = {key: value for key, value in keys.items() if not key.startswith("hydra.")}
    command = shlex.join(["python", "run.py", *own, *overrides])
    try:
        cell = checker.found(overrides)
    except UNFIT as error:
        return Place(axes, command, why=one_line(error))
    record, tried = cell.record(), written(cell.folder) or cell.failure()
    return Place(axes, command, record, cell.why() if tried and not record else None)


def without(place: Place, keys: Collection[str]) -> Place:
    """A cell that stands in for each that the keys would tell apart: a size has one for all."""
    return replace(place, axes={key: one for key, one in place.axes.items() if key not in keys})


def presets() -> Iterator[str]:
    """The names of those that sweep."""
    for file in sorted((CONF / "experiment").glob("*.yaml")):
        if OmegaConf.select(OmegaConf.load(file), "hydra.sweeper.params"):
            yield file.stem
