"""Every preset of a paper's table is a grid of which each choice composes."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from backdoor_lab.config import CONF
from backdoor_lab.run.cells import combinations
from tests.conftest import names

GRIDS = [name for name in names("experiment") if "table" in name]


def swept(name):
    params = OmegaConf.load(CONF / "experiment" / f"{name}.yaml").hydra.sweeper.params
    return [f"{key}={value}" for key, value in params.items()]


def test_the_papers_have_22_tables():
    assert len(GRIDS) == 22


@pytest.mark.parametrize("name", GRIDS)
def test_each_choice_of_a_grid_composes(name, tmp_path):
    cells = combinations(swept(name))
    some = [cells[number * (len(cells) - 1) // 5] for number in range(6)]  # first and last too
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for cell in set(some):
            cfg = compose("config", [f"experiment={name}", f"paths.outputs={tmp_path}", *cell])
            assert cfg.protocol == name.split("_")[0]
            plain = OmegaConf.to_container(cfg, resolve=True)
            for choice in cell:
                key, _, value = choice.partition("=")
                if "." in key and "@" not in key:
                    assert str(OmegaConf.select(cfg, key)).lower() == value.lower()
                elif key in ("attack", "defense"):
                    assert f".{key}s.{value}." in plain[key]["_target_"]
