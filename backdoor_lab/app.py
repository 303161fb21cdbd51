"""One job of the command line: run it, or show what it left the last time."""

from __future__ import annotations

import gc
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from backdoor_lab import pipeline
from backdoor_lab.configuration import attack_name
from backdoor_lab.console import console
from backdoor_lab.errors import ConfigError
from backdoor_lab.parts import Parts
from backdoor_lab.reports.result import Names, read_result
from backdoor_lab.reports.table import result_table

log = logging.getLogger(__name__)
GROUPS = ("dataset", "model", "attack", "defense", "aux", "calibration", "recipe", "protocol")


def launch(cfg: DictConfig) -> Exception | None:
    """Run one job; in a grid an exception is handed back, so that the other cells go on."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    quiet_libraries()
    try:
        if cfg.export is not None:
            log.info("triggered images: %s", pipeline.export(cfg, names_of(cfg)))
            return None
        done = finished(cfg, folder)
        if done is None:
            done = pipeline.run(cfg, names_of(cfg), folder)
        (folder / "error.txt").unlink(missing_ok=True)
    except Exception as error:
        leave_trace(folder, error)
        if hydra.mode is not RunMode.MULTIRUN:
            raise
        log.error("%s failed: %s", folder, error)
        return error
    finally:
        free_memory()
    console().print(result_table(done))
    console().print(f"Result and pictures: {folder}", soft_wrap=True)
    return None


def finished(cfg: DictConfig, folder: Path) -> dict[str, Any] | None:
    """The result in `folder`, if it is not to be made again."""
    done = read_result(folder)
    if done is None or cfg.force:
        return None
    if done.get("code") != Parts.of(cfg).code():
        log.info("a method of this run has changed since: it runs again")
        return None
    log.info("this run is finished already; force=true runs it again")
    return done


def names_of(cfg: DictConfig) -> Names:
    """The chosen names, and the command that repeats the run."""
    hydra = HydraConfig.get()
    choices = {group: str(hydra.runtime.choices[group]) for group in GROUPS}
    choices["dataset"] = cfg.dataset.name
    choices["attack"] = attack_name(hydra.runtime.choices)
    group = "/".join(choices[key] for key in ("dataset", "model"))
    return Names(choices, tuple(hydra.overrides.task), group)


def leave_trace(folder: Path, error: Exception) -> None:
    """Say in the folder why there is no result; a refused config leaves no folder at all."""
    if isinstance(error, ConfigError) and read_result(folder) is None:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.is_dir():
        (folder / "error.txt").write_text(f"{type(error).__name__}: {error}\n")


def free_memory() -> None:
    """Give back what this job held, before the next one in the same process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def quiet_libraries() -> None:
    """Silence banners and warnings that no user can act on."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
