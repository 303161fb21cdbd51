"""`hydra/launcher=ray`: a grid as tasks of a Ray cluster, or of a local Ray."""

import os
import secrets
from pathlib import Path

from backdoor_lab.run import cluster
from backdoor_lab.run.pool import Work
from backdoor_lab.validation import Count, NonNegative, validated


class RayLauncher(cluster.ClusterLauncher):
    """The released launcher pickles the whole application, and refuses clusters that are there.

    Args:
        address: of a cluster, or `auto`; None: a local one is started for the grid.
        num_gpus: of a cell; None: 1 where the cluster has any, else 0.
        num_cpus: of a cell, and its threads.
        tries: of a cell whose process was killed.
    """

    package = "ray"
    extra = "ray"

    @validated  # Hydra reads this file as no module: annotations must be types, not texts
    def __init__(
        self, address: str | None, num_gpus: NonNegative | None, num_cpus: Count, tries: Count
    ) -> None:
        self.address, self.num_gpus, self.num_cpus, self.tries = address, num_gpus, num_cpus, tries

    def run(self, command: list[str], waiting: list[Work], logs: Path) -> set[int]:
        if self.address is None:
            keep_strangers_out()
        from backdoor_lab.run.on_ray import Needs, RayTasks, connected

        with connected(self.address, self.num_gpus) as gpus:
            return RayTasks(command, logs, Needs(gpus, self.num_cpus, self.tries)).run(waiting)


def keep_strangers_out() -> None:
    """A local Ray listens on all of the machine's addresses; Ray reads this as it is imported."""
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
