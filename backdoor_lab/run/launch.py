"""One job of the command line: run its task, or show what it left the last time."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from backdoor_lab.config.facts import looks
from backdoor_lab.config.vain import without_effect, without_grid
from backdoor_lab.console import console
from backdoor_lab.errors import ConfigError
from backdoor_lab.records import Record, forget_failure
from backdoor_lab.reports.inspection import inspection_tables
from backdoor_lab.reports.table import result_table
from backdoor_lab.run.building import build
from backdoor_lab.run.child import BUSY, CELL
from backdoor_lab.run.claims import LOCK, claimed
from backdoor_lab.run.finished import State, state_of
from backdoor_lab.run.folders import config_dir, searchpath
from backdoor_lab.run.gate import made_readable
from backdoor_lab.run.names import Names
from backdoor_lab.store.locks import Busy

log = logging.getLogger(__name__)
OWN = {".hydra", "run.log", LOCK}  # what is in a folder as soon as a run begins


def launch(cfg: DictConfig) -> Exception | None:
    """Run one job; in a grid an exception is handed back, so that the other cells go on."""
    if looks(cfg):
        build(cfg, "task").look(Path(cfg.paths.outputs))
        return None
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    typed = (*config_dir(hydra), *searchpath(hydra), *hydra.overrides.task)
    names = Names.of(cfg, hydra.runtime.choices, typed)
    in_process = hydra.mode is RunMode.MULTIRUN
    in_grid = in_process or CELL in os.environ
    for sentence in (*without_effect(cfg, hydra.overrides.task), *without_grid(hydra, in_grid)):
        log.warning(sentence)
    try:
        record = result_of(cfg, names, folder, patient=not in_grid)
    except Busy as busy:
        if in_process:
            return busy
        raise SystemExit(BUSY) from None
    except Exception as error:
        readable = made_readable(error)
        leave_trace(folder, names, readable, in_grid)
        if in_process:
            log.error("%s failed: %s", folder, readable)
            return readable
        if readable is error:
            raise
        raise readable from None
    if record.victim is not None:
        console().print(result_table(record))
    for shown in inspection_tables(record):
        console().print(shown)
    console().print(f"Result: {folder}", soft_wrap=True)
    return None


def result_of(cfg: DictConfig, names: Names, folder: Path, patient: bool = True) -> Record:
    """The record in `folder`, made now where it is not there or not current.

    Raises:
        Busy: another process makes it, and it is not `patient`.
    """
    record, state = state_of(cfg, folder)
    if record is not None and state is State.CURRENT:
        log.info("this run is finished already; force=true runs it again")
        forget_failure(folder)
        return record
    from backdoor_lab.run.job import perform  # torch and Lightning load only now

    with claimed(folder, patient):
        forget_failure(folder)
        return perform(cfg, names, folder)


def leave_trace(folder: Path, names: Names, error: Exception, in_grid: bool) -> None:
    """Say in the folder why there is no result; a refusal on its own leaves no folder at all.

    A folder that holds anything else stays: it may be one of the user's.
    """
    refused = isinstance(error, ConfigError) and not in_grid
    if refused and folder.is_dir() and {one.name for one in folder.iterdir()} <= OWN:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.is_dir():
        with suppress(OSError):  # the disk may be what is wrong
            names.failure(f"{type(error).__name__}: {error}").write(folder)
