"""What launchers share that send cells to a cluster: cells that are not finished, victims first."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from hydra.core.utils import JobReturn, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from backdoor_lab.errors import ConfigError
from backdoor_lab.run.launching import endings, works
from backdoor_lab.run.ledger import grid_file
from backdoor_lab.run.pool import Work


class ClusterLauncher(Launcher):
    """Sends cells away as `python run.py ...`; the grid is judged by the records they leave.

    Nothing but the command travels, so that the folders must be shared by all machines.
    """

    package: ClassVar[str]
    extra: ClassVar[str]
    config: DictConfig

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        del hydra_context, task_function  # a child finds them by itself
        if find_spec(self.package) is None:
            raise ConfigError(
                f"hydra/launcher={self.extra} needs the package {self.package}, which is not here; "
                f"allowed: after `pip install '.[{self.extra}]'`, or hydra/launcher=pool"
            )
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        cells = works(self.config, job_overrides, initial_job_idx)
        logs = grid_file(self.config).with_suffix("").resolve()
        logs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(Path(sys.argv[0]).resolve())]
        return endings(cells, self.run(command, cells, logs))

    @abstractmethod
    def run(self, command: list[str], waiting: list[Work], logs: Path) -> set[int]:
        """Run all cells as `command` and their overrides; what they say goes below `logs`.

        Returns:
            The numbers of those that another process is running.
        """
