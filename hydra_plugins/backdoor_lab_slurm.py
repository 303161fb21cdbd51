"""`hydra/launcher=slurm`: a grid as SLURM jobs, a job a cell."""

import shutil
from pathlib import Path
from typing import Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from backdoor_lab.errors import ConfigError
from backdoor_lab.run import cluster
from backdoor_lab.run.pool import Work
from backdoor_lab.validation import Count, Index, Positive, validated


class SlurmLauncher(cluster.ClusterLauncher):
    """Around submitit; the released launcher raises at the first job that dies, others or not.

    Args:
        max_num_timeout: how often a cell that runs out of time is requeued.
        tries: of a cell whose process was killed.
        poll_s: seconds between two looks at the queue.
        settings: of each job, by submitit's names; None: as the cluster likes.
    """

    package = "submitit"
    extra = "slurm"

    @validated  # Hydra reads this file as no module: annotations must be types, not texts
    def __init__(
        self, max_num_timeout: Index, tries: Count, poll_s: Positive, **settings: Any
    ) -> None:
        self.max_num_timeout, self.tries, self.poll_s = max_num_timeout, tries, poll_s
        plain = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }
        self.settings = {key: value for key, value in plain.items() if value is not None}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        if shutil.which("sbatch") is None:
            raise ConfigError(
                "hydra/launcher=slurm finds no sbatch here; allowed: on a machine from which jobs "
                "are sent to SLURM, or hydra/launcher=pool"
            )
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def run(self, command: list[str], waiting: list[Work], logs: Path) -> set[int]:
        from backdoor_lab.run.slurm import Queue

        queue = Queue(command, logs, self.settings, self.max_num_timeout, self.tries, self.poll_s)
        return queue.run(waiting)
