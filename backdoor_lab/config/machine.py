"""What this machine makes of `trainer.precision=auto`, known without torch once it was asked."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from backdoor_lab.config.hardware import gpu_files
from backdoor_lab.errors import ConfigError
from backdoor_lab.store.notes import Notes


def precision_here(cfg: DictConfig) -> str:
    """`trainer.precision`, `auto` resolved; a device that is not there is refused elsewhere."""
    trainer = cfg.trainer
    if trainer.precision != "auto":
        return str(trainer.precision)
    index = trainer.devices[0] if OmegaConf.is_list(trainer.devices) and trainer.devices else None
    asked = {
        "machine": platform.node(),
        "gpus": gpu_files(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "accelerator": trainer.accelerator,
        "index": index,
        "torch": version("torch"),
    }
    notes = Notes(Path(cfg.paths.cache))
    known = notes.read("precision", asked)
    if known is None:
        known = look(str(trainer.accelerator), index)
        notes.write("precision", asked, known)
    return str(known)


def refuse_auto(cfg: DictConfig) -> None:
    """Refuse `auto` for other machines: each would settle it for itself, and it names folders."""
    if cfg.trainer.precision == "auto":
        raise ConfigError(
            "trainer.precision=auto would be settled by each machine of a cluster for itself; "
            "allowed: bf16-mixed, 32-true"
        )


def look(accelerator: str, index: int | None) -> str:
    """Ask torch, which takes seconds to load."""
    from backdoor_lab.device import chosen_device, resolved_precision

    try:
        return resolved_precision(chosen_device(accelerator, index))
    except ConfigError:
        return "auto"
