"""What is asked before anything is made, and faults of the machine in words. Without torch."""

from __future__ import annotations

import errno
import re
import tempfile
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backdoor_lab.config.checks import refuse
from backdoor_lab.errors import ConfigError

UNFIT = (HydraException, MissingConfigException, OmegaConfBaseException)
DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM,
    errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE,
)  # fmt: skip
IN_RUST = re.compile(r"\(os error (\d+)\)")  # safetensors' way to say it


class Gate(Callback):
    """Hydra's callback around a run."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run before Hydra makes its folder."""
        try:
            gate(config, "run.dir")
        except UNFIT as error:
            raise SystemExit(one_line(error)) from None


def gate(cfg: DictConfig, folder: str) -> None:
    """Refuse what can be told from the config and the disk alone.

    Args:
        cfg: composed, Hydra's own node included.
        folder: the key below `hydra` that names the run's folder.

    Raises:
        ConfigError: names the key, what was given and what is allowed.
    """
    refuse(cfg)
    if OmegaConf.select(cfg.hydra, folder) is None:
        raise ConfigError(f"hydra.{folder}=null; allowed: a folder")
    refuse_unwritable(str(cfg.paths.outputs))


def refuse_unwritable(folder: str) -> None:
    """Refuse a folder for results that cannot be made, written to, or that has no space left."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(2**16))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"paths.outputs={folder} cannot be written ({why}); allowed: a folder of yours with "
            "space left"
        ) from None


def made_readable(error: Exception) -> Exception:
    """`error`, or one sentence where it is the disk's and no fault of the code."""
    in_rust = IN_RUST.search(str(error))
    number = int(in_rust[1]) if in_rust else getattr(error, "errno", None)
    if number not in DISK:
        return error
    return ConfigError(
        f"paths: {one_line(error)}; allowed: folders of yours with space left, and the same "
        "command goes on from what is done"
    )


def one_line(error: Exception) -> str:
    """An error with its cause, which ours tell; of Hydra's the searched folders are left out."""
    bare = error.__cause__ is None or isinstance(error, ConfigError)
    text = str(error) if bare else f"{error}: {error.__cause__}"
    return " ".join(text.partition("Config search path:")[0].split())
