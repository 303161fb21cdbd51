"""`hydra/launcher=pool`: a grid over all GPUs, or all cores, a child process a cell."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class PoolLauncher(Launcher):
    """Runs cells as `python run.py ...`, so that a crash costs one cell and CUDA is fresh.

    Args:
        per_gpu: cells at once on each GPU that is visible.
        threads: of each cell where there is no GPU; so many cells run as the cores allow.
        tries: of a cell whose process was killed.
    """

    def __init__(self, per_gpu: int, threads: int, tries: int) -> None:
        self.per_gpu, self.threads, self.tries = per_gpu, threads, tries
        self.context: HydraContext
        self.config: DictConfig

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        del task_function  # a child finds it by itself
        self.context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from backdoor_lab.config.identity import victim_identity
        from backdoor_lab.digests import digest
        from backdoor_lab.run.finished import State, state_of
        from backdoor_lab.run.pool import Pool, Work, places

        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        waiting = []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            cfg = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            folder = Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir
            if state_of(cfg, folder)[1] is not State.CURRENT:
                waiting.append(Work(number, tuple(overrides), digest(victim_identity(cfg))))
        logs = Path(self.config.hydra.sweep.dir).parent / "grids"
        command = [sys.executable, str(Path(sys.argv[0]).resolve())]
        Pool(command, places(self.per_gpu, self.threads), logs, self.tries).run(waiting)
        return [self._ended(list(overrides)) for overrides in job_overrides]

    def _ended(self, overrides: list[str]) -> JobReturn:
        """Ended, well or not: the grid is judged by the records that its cells left."""
        ended: Any = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        ended.return_value = None
        return ended
