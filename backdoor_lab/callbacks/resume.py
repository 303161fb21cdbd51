"""A training that survives being killed."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)


class Resume(Callback):
    """Saves the whole training at the end of an epoch, every `seconds` at most."""

    FILE = "resume.ckpt"

    def __init__(self, folder: Path, seconds: float = 20.0) -> None:
        self.folder = folder
        self.seconds = seconds
        self.saved = time.monotonic()

    @classmethod
    def found(cls, folder: Path | None) -> str | None:
        """The checkpoint in `folder` if it is whole; a damaged one is dropped with a warning."""
        if folder is None or not (folder / cls.FILE).exists():
            return None
        file = folder / cls.FILE
        try:
            torch.load(file, map_location="meta", weights_only=True)
        except Exception as error:  # noqa: BLE001 - any damage means the same: start anew
            log.warning("%s is damaged (%s): training starts anew", file, type(error).__name__)
            file.unlink()
            return None
        log.info("resuming the training in %s", folder)
        return str(file)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if time.monotonic() - self.saved >= self.seconds:
            partial = self.folder / f"{self.FILE}.partial"
            trainer.save_checkpoint(partial)
            partial.replace(self.folder / self.FILE)
            self.saved = time.monotonic()
