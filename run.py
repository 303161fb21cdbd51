"""The command line: `python run.py attack=wanet defense=unibp aux=external`; `--help` lists all."""

import sys

import hydra
from omegaconf import DictConfig

from backdoor_lab import configuration

configuration.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> Exception | None:
    """Run one job."""
    from backdoor_lab.app import launch  # torch and Lightning load only when a run begins

    return launch(cfg)


if __name__ == "__main__":
    if "--version" in sys.argv:
        configuration.show_versions()
    else:
        main()
