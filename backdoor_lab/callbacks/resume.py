"""A training that survives being killed."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from backdoor_lab.store import RESUME

log = logging.getLogger(__name__)
NEEDED = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step"}


class Resume(Callback):
    """Saves the whole training at the end of an epoch, every `seconds` at most."""

    def __init__(self, folder: Path, seconds: float = 20.0) -> None:
        self.folder = folder
        self.seconds = seconds
        self.saved = time.monotonic()

    @classmethod
    def found(cls, folder: Path | None) -> str | None:
        """The checkpoint in `folder` if it is whole; a damaged one is dropped with a warning."""
        if folder is None or not (folder / RESUME).exists():
            return None
        file = folder / RESUME
        if fault := _fault(file):
            log.warning("%s is damaged (%s): training starts anew", file, fault)
            file.unlink()
            return None
        log.info("resuming the training in %s", folder)
        return str(file)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if time.monotonic() - self.saved >= self.seconds:
            partial = self.folder / f"{RESUME}.partial"
            try:
                trainer.save_checkpoint(partial)
                partial.replace(self.folder / RESUME)
            finally:
                partial.unlink(missing_ok=True)  # a full disk leaves half of one
            self.saved = time.monotonic()


def _fault(file: Path) -> str | None:
    """Why Lightning could not go on from a checkpoint, if so."""
    try:
        held = torch.load(file, map_location="meta", weights_only=True)
    except Exception as error:  # noqa: BLE001 - any damage means the same: start anew
        return type(error).__name__
    if not isinstance(held, dict):
        return "no checkpoint"
    missing = sorted(NEEDED - held.keys())
    return f"lacks {', '.join(missing)}" if missing else None
