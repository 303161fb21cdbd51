"""The command line: `python run.py attack=wanet defense=unibp aux=external`; `--help` lists all."""

import sys

import hydra
from omegaconf import DictConfig

from backdoor_lab.config import register, show_versions
from backdoor_lab.config.choices import refuse_choices
from backdoor_lab.config.typos import refuse_typos
from backdoor_lab.run.exits import ending_well
from backdoor_lab.run.launch import launch

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> Exception | None:
    """Run one job."""
    return launch(cfg)


if __name__ == "__main__":
    with ending_well():
        if "--version" in sys.argv:
            show_versions()
        else:
            refuse_typos(sys.argv[1:])
            refuse_choices(sys.argv[1:])
            main()
