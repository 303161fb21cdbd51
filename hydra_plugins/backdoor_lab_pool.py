"""`hydra/launcher=pool`: a grid over all GPUs, or all cores, a child process a cell."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from backdoor_lab.validation import Count, validated


class PoolLauncher(Launcher):
    """Runs each cell as a `python run.py ...` of its own: a crash costs one, and CUDA is fresh.

    Args:
        per_gpu: cells at once on each GPU that is visible.
        threads: of each cell where there is no GPU; so many cells run as the cores allow.
        tries: of a cell whose process was killed.
    """

    @validated  # Hydra reads this file as no module: annotations must be types, not texts
    def __init__(self, per_gpu: Count, threads: Count, tries: Count) -> None:
        self.per_gpu, self.threads, self.tries = per_gpu, threads, tries
        self.config: DictConfig

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        del hydra_context, task_function  # a child finds them by itself
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from backdoor_lab.run.launching import endings, works
        from backdoor_lab.run.ledger import grid_file
        from backdoor_lab.run.pool import Pool, places

        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        cells = works(self.config, job_overrides, initial_job_idx)
        script, spots = Path(sys.argv[0]).resolve(), places(self.per_gpu, self.threads)
        logs = grid_file(self.config).with_suffix("")
        return endings(cells, Pool(script, spots, logs, self.tries).run(list(cells)))
