"""Tracking with Weights & Biases, online or offline, with or without an account."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import requests
from lightning.pytorch.loggers import WandbLogger
from requests.utils import get_netrc_auth

from backdoor_lab.errors import ConfigError
from backdoor_lab.tracking._base import Ending, RunInfo, Tracker, flat
from backdoor_lab.validation import validated

log = logging.getLogger(__name__)
Mode = Literal["online", "offline", "disabled"]
UNFINISHED = "wandb_id"  # in a run's folder, until the run has ended, well or not
SECONDS = 5.0  # to connect, and to answer
MODES = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}


class WandbTracker(Tracker):
    """Mirrors a run to W&B; it never asks for a key.

    Args:
        project: W&B project.
        entity: user or team, or None for the account's own.
        mode: `auto` (online where an API key is known and WANDB_MODE does not say otherwise,
            else offline), `online` or `offline`.
    """

    @validated
    def __init__(
        self, project: str, entity: str | None, mode: Literal["auto", "online", "offline"]
    ) -> None:
        self.project = project
        self.entity = entity
        self.mode = mode
        asked_of_environment()
        self._logger: WandbLogger | None = None

    @property
    def lightning_logger(self) -> WandbLogger | None:
        return self._logger

    def summary(self, values: Mapping[str, Any]) -> None:
        if self._logger is not None:
            self._logger.experiment.summary.update(flat(values))

    def images(self, pictures: Mapping[str, Path]) -> None:
        import wandb

        if self._logger is not None:
            shown = {name: wandb.Image(str(path)) for name, path in pictures.items()}
            self._logger.experiment.log(shown)

    def _open(self, info: RunInfo) -> None:
        """Begin a W&B run; a refusal, such as of a key, costs the run nothing unless it asked.

        Raises:
            ConfigError: `mode=online`, and W&B refuses.
        """
        import wandb

        info.folder.mkdir(parents=True, exist_ok=True)
        self.unfinished = info.folder / UNFINISHED
        try:
            run = self._begin(info, _mode(self.mode))
        except wandb.errors.Error as error:
            if self.mode == "online":
                raise ConfigError(
                    f"logger.mode=online, but W&B refuses ({error}); allowed: auto, offline, or "
                    "online with a key that it knows"
                ) from None
            log.warning("W&B refuses (%s): offline; `wandb sync` sends the run later", error)
            run = self._begin(info, "offline")
        self._logger = _EpochLogger(experiment=run)

    def _begin(self, info: RunInfo, mode: Mode) -> Any:
        import wandb

        in_sweep = "WANDB_SWEEP_ID" in os.environ  # there the agent has chosen the id
        return wandb.init(
            project=self.project,
            entity=self.entity,
            mode=mode,
            id=None if in_sweep else identifier(info.folder),
            resume="allow" if mode == "online" else None,  # offline, `wandb sync` joins them by id
            name=info.name,
            group=info.group,
            job_type=info.job_type,
            tags=info.tags,
            config=dict(info.config),
            dir=info.folder,
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off", disable_code=True),
        )

    def _close(self, ending: Ending) -> None:
        if self._logger is not None:
            if ending is not Ending.STOPPED:
                self.unfinished.unlink(missing_ok=True)
            self._logger.experiment.finish(exit_code=ending.exit_code)
            self._logger = None


def identifier(folder: Path) -> str:
    """The W&B id of a folder's run: that of the try before, if it was killed or stopped."""
    file = folder / UNFINISHED
    if not file.exists():
        file.write_text(secrets.token_hex(6))
    return file.read_text()


class _EpochLogger(WandbLogger):
    """Draws `<title>/...` over `<title>/epoch` wherever a training counts its epochs."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row, its x-axis declared."""
        for name in metrics:
            title, _, last = name.rpartition("/")
            if title and last == "epoch":
                self.experiment.define_metric(f"{title}/*", step_metric=name)
        super().log_metrics(metrics, step)


def _mode(wish: str) -> Mode:
    """`wish`, where `auto` follows WANDB_MODE and goes online only with a known key."""
    told = asked_of_environment()
    asked = told if wish == "auto" else wish
    if asked == "disabled":
        return "disabled"
    if asked != "online":
        return "offline"
    if _key_is_known():
        return "online" if reachable() else "offline"
    if wish == "online":
        raise ConfigError(
            "logger.mode=online, but neither WANDB_API_KEY nor a netrc entry holds a key; "
            "allowed: auto, offline, or online after `wandb login`"
        )
    return "offline"


def _key_is_known() -> bool:
    """Whether the environment or a netrc file holds a key for the W&B host."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return get_netrc_auth(_host()) is not None
    except ValueError:  # bytes that are no text
        return False


def asked_of_environment() -> str:
    """What WANDB_MODE asks for.

    Raises:
        ConfigError: nothing that W&B knows.
    """
    asked = os.environ.get("WANDB_MODE") or "online"
    if asked not in MODES:
        raise ConfigError(f"WANDB_MODE={asked} is no mode; allowed: {', '.join(MODES)}")
    return MODES[asked]


def reachable() -> bool:
    """Whether W&B's host answers within seconds; its own client would try for minutes."""
    try:
        requests.head(_host(), timeout=SECONDS)
    except requests.RequestException as error:
        kind = type(error).__name__
        log.warning("W&B does not answer (%s): offline; `wandb sync` sends the run later", kind)
        return False
    return True


def _host() -> str:
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
