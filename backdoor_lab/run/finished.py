"""Whether a run is finished: told from its record, source text and notes, without torch."""

from __future__ import annotations

from enum import Enum
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from backdoor_lab.config.facts import fact
from backdoor_lab.config.identity import identity, run_identity
from backdoor_lab.digests import state_below
from backdoor_lab.records import Record, read_record
from backdoor_lab.store import Notes, Provenance

CODE = Provenance()


class State(Enum):
    """How a record stands to the run that it is asked for."""

    ABSENT = "absent"
    STALE = "stale"
    INCOMPLETE = "incomplete"  # it counts, but a file that was asked for is not beside it
    UNTOLD = "untold"  # only the loaded data can tell
    CURRENT = "current"


def state_of(cfg: DictConfig, folder: Path, code: str | None = None) -> tuple[Record | None, State]:
    """The record in `folder`, and whether it answers for `cfg`, whose code may be known."""
    record = None if cfg.force else read_record(folder)
    if record is None or record.made_from is None:
        return None, State.ABSENT
    if record.made_from.code != (code or CODE.of(run_identity(cfg))):
        return record, State.STALE
    known = Notes(Path(cfg.paths.cache)).read("fingerprint", asked_of(cfg))
    if known is None:
        return record, State.UNTOLD
    if known != record.made_from.data:
        return record, State.STALE
    return record, State.CURRENT if complete(cfg, folder) else State.INCOMPLETE


def complete(cfg: DictConfig, folder: Path) -> bool:
    """Whether each file that a key of the task asks for lies beside the record."""
    leaves = fact(cfg.task, "leaves", {})
    asked = [pattern for key, pattern in leaves.items() if OmegaConf.select(cfg, key)]
    return all(any(folder.glob(pattern)) for pattern in asked)


def note_fingerprint(cfg: DictConfig, asked: dict[str, Any], fingerprint: str) -> None:
    """Remember what the data are that `asked`, taken before they were loaded, describes."""
    Notes(Path(cfg.paths.cache)).write("fingerprint", asked, fingerprint)


def asked_of(cfg: DictConfig) -> dict[str, Any]:
    """What tells a data set without decoding it: its settings, its files, who decodes them."""
    files = fact(cfg.dataset, "files", [])
    root = OmegaConf.select(cfg, "dataset.root")
    settings = identity(cfg, ("dataset",))
    versions = {
        name: version(name) for name in ("mlxtend", "pillow", "scikit-learn", "torchvision")
    }
    code = CODE.of(settings)
    files_state = [state_of_files(str(Path(root) / name)) for name in files] if root else []
    return {"settings": settings, "files": files_state, "versions": versions, "code": code}


@cache
def state_of_files(path: str) -> str:
    """As `state_below`, looked at once in a process: each cell of a grid asks."""
    return state_below(Path(path))
