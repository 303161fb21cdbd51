"""What launchers share that send cells to a cluster: cells that are not finished, victims first."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from backdoor_lab.errors import ConfigError
from backdoor_lab.run.pool import Work


class ClusterLauncher(Launcher):
    """Sends cells away as `python run.py ...`; the grid is judged by the records they leave.

    Nothing but the command travels, so that the folders must be shared by all machines.
    """

    package: ClassVar[str]
    extra: ClassVar[str]
    context: HydraContext
    config: DictConfig

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        del task_function  # a child finds it by itself
        if find_spec(self.package) is None:
            raise ConfigError(
                f"hydra/launcher={self.extra} needs the package {self.package}, which is not here; "
                f"allowed: after `pip install '.[{self.extra}]'`, or hydra/launcher=pool"
            )
        self.context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        waiting = self._waiting(job_overrides, initial_job_idx)
        if waiting:
            logs = (Path(self.config.hydra.sweep.dir).parent / "grids").resolve()
            logs.mkdir(parents=True, exist_ok=True)
            self.run([sys.executable, str(Path(sys.argv[0]).resolve())], waiting, logs)
        return [_ended(list(overrides)) for overrides in job_overrides]

    @abstractmethod
    def run(self, command: list[str], waiting: list[Work], logs: Path) -> None:
        """Run all cells as `command` and their overrides; what they say goes below `logs`."""

    def _waiting(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Work]:
        from backdoor_lab.config.identity import victim_identity
        from backdoor_lab.digests import digest
        from backdoor_lab.run.finished import State, state_of

        waiting = []
        for number, overrides in enumerate(job_overrides, start=first):
            cfg = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            folder = Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir
            if state_of(cfg, folder)[1] is not State.CURRENT:
                waiting.append(Work(number, tuple(overrides), digest(victim_identity(cfg))))
        return waiting


def waves(waiting: Sequence[Work]) -> tuple[list[Work], list[Work]]:
    """The first cell of each victim, which makes it, and those that need it made."""
    first = {work.victim: work for work in reversed(waiting)}
    makers = [work for work in waiting if first[work.victim] is work]
    return makers, [work for work in waiting if first[work.victim] is not work]


def _ended(overrides: list[str]) -> JobReturn:
    ended: Any = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
    ended.return_value = None
    return ended
