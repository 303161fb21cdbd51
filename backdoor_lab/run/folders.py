"""Options of Hydra's that say where things lie: handed on to a grid's cells, or refused."""

from __future__ import annotations

from hydra.conf import HydraConf
from omegaconf import DictConfig

from backdoor_lab.errors import ConfigError

SEARCHED = "hydra.searchpath="
WRITTEN = ("hydra.sweep.", "hydra.run.")


def config_dir(hydra: DictConfig | HydraConf) -> list[str]:
    """`--config-dir`, a user's folder of yamls, as Hydra was given it."""
    sources = hydra.runtime.config_sources
    return [f"--config-dir={one.path}" for one in sources if one.provider == "command-line"]


def searchpath(hydra: DictConfig | HydraConf) -> list[str]:
    """The override of `hydra.searchpath`, more folders of yamls; a cell of a grid has it twice."""
    typed = map(str, hydra.overrides.hydra)
    return list(dict.fromkeys(one for one in typed if one.startswith(SEARCHED)))


def refuse_folders(hydra: DictConfig | HydraConf) -> None:
    """Refuse other folders for a grid's results, which only some launchers would follow.

    Raises:
        ConfigError: names the key, what was given and what is allowed.
    """
    for one in map(str, hydra.overrides.hydra):
        if one.lstrip("+~").startswith(WRITTEN):
            raise ConfigError(f"{one} is not for grids; allowed: paths.outputs=<folder>")
