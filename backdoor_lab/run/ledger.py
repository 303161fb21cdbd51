"""What a grid is, on disk: from its file and the records alone anybody can tell how it stands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shlex import join
from typing import Any

from omegaconf import DictConfig

from backdoor_lab.digests import digest
from backdoor_lab.run.cells import Cell, swept
from backdoor_lab.run.folders import config_dir
from backdoor_lab.store.whole import write_whole

GRIDS = "grids"  # below paths.outputs


@dataclass(frozen=True)
class Ledger:
    """A grid as `paths.outputs/grids/<hash>.json` holds it; the hash is of its command.

    Attributes:
        file: where it lies.
        command: repeats the grid, or goes on with it.
        started: when it was begun, the last time.
        cells: all of them.
        options: of each cell's command, before its overrides.
    """

    file: Path
    command: str
    started: str
    cells: tuple[Cell, ...]
    options: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: DictConfig, cells: Sequence[Cell]) -> Ledger:
        """That of a grid which begins now."""
        asked = map(str, config.hydra.overrides.hydra)
        chosen = [one for one in asked if not one.startswith("hydra.mode=")]
        own = tuple(config_dir(config.hydra))
        command = join(["python", "run.py", "-m", *own, *chosen, *config.hydra.overrides.task])
        now = datetime.now().isoformat(timespec="seconds")
        return cls(grid_file(config), command, now, tuple(cells), own)

    def command_of(self, cell: Cell) -> str:
        """Makes the result of a cell."""
        return join(["python", "run.py", *self.options, *cell.overrides])

    @classmethod
    def read(cls, file: Path) -> Ledger | None:
        """What a file holds; None where it cannot be read."""
        outputs = file.parents[1]
        try:
            held = json.loads(file.read_text())
            cells = tuple(cell_of(one, outputs) for one in held["cells"])
            options = tuple(map(str, held.get("options", ())))
            return cls(file, str(held["command"]), str(held["started"]), cells, options)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self) -> None:
        """Write the file, whole or not at all."""
        outputs = self.file.parents[1]
        cells = [as_plain(cell, outputs) for cell in self.cells]
        told = {"command": self.command, "started": self.started, "options": self.options}
        write_whole(self.file, json.dumps({**told, "cells": cells}))


def grid_file(config: DictConfig) -> Path:
    """The file of the grid that a config asks for."""
    return Path(config.paths.outputs) / GRIDS / f"{digest(swept(config))}.json"


def victims(file: Path) -> dict[tuple[str, ...], str]:
    """The victim of each cell, by its overrides; nothing where there is no such file."""
    ledger = Ledger.read(file)
    return {cell.overrides: cell.victim for cell in ledger.cells} if ledger else {}


def as_plain(cell: Cell, outputs: Path) -> dict[str, Any]:
    """A cell as JSON; folders below `outputs` are told from there, which may be moved."""
    below = cell.folder.is_relative_to(outputs)
    folder = cell.folder.relative_to(outputs) if below else cell.folder
    facts = {"folder": str(folder), "code": cell.code, "victim": cell.victim, "stale": cell.stale}
    return {"overrides": list(cell.overrides), **facts}


def cell_of(held: dict[str, Any], outputs: Path) -> Cell:
    """A cell from JSON."""
    folder = outputs / str(held["folder"])
    code, victim, stale = str(held["code"]), str(held["victim"]), held.get("stale")
    return Cell(tuple(held["overrides"]), folder, code, victim, stale=stale)
