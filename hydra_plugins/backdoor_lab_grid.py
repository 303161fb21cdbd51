"""Hydra's way into our grids: every cell is composed once, checked, and judged by its record."""

from __future__ import annotations

from hydra.core.plugins import Plugins
from hydra.errors import InstantiationException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from pydantic import ValidationError

from backdoor_lab.errors import ConfigError
from backdoor_lab.run.building import misfit


class GridSweeper(Sweeper):
    """All combinations of the lists on the command line and in a preset.

    Hydra's own sweeper composes each cell to see that it can, and each launcher does so again;
    a finished cell is composed here alone.

    Args:
        params: lists of a preset, such as `{seed: "0,1"}`; the command line wins.
        also: grids beside it, each by the keys that differ from `params`.
        instead: values in the place of those that a preset sets.
    """

    def __init__(
        self,
        params: dict[str, str] | None = None,
        also: list[dict[str, str]] | None = None,
        instead: dict[str, str] | None = None,
    ) -> None:
        del params, also, instead  # read from the config
        self.config: DictConfig
        self.launcher: Launcher

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config
        try:
            self.launcher = Plugins.instance().instantiate_launcher(
                hydra_context=hydra_context, task_function=task_function, config=config
            )
        except InstantiationException as error:
            if isinstance(error.__cause__, ValidationError):
                raise ConfigError(misfit("hydra.launcher", error.__cause__)) from None
            raise

    def sweep(self, arguments: list[str]) -> None:
        """Run the grid that the config describes; `arguments` are in it."""
        from backdoor_lab.run.cluster import ClusterLauncher
        from backdoor_lab.run.grid import run_grid

        del arguments
        elsewhere = isinstance(self.launcher, ClusterLauncher)
        run_grid(self.config, self.launcher.launch, elsewhere)
