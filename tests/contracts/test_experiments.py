"""Every preset of a paper's table is a grid that composes, and that holds what the paper prints."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from backdoor_lab.config import CONF
from backdoor_lab.papers import printed
from backdoor_lab.papers.comparison import belongs
from backdoor_lab.papers.printed import everything, misprints
from backdoor_lab.run.cells import combinations, parsed, swept
from benchmarks import papers
from tests.conftest import names

TABLES = [name for name in names("experiment") if "_table" in name]
GRIDS = [*TABLES, *(name for name in names("experiment") if "_figure" in name)]
SIZES = names("size")
YOURS = {"unlabeled_tiny_imagenet_pp"}  # a share of ImageNet, which no data set here reads


def preset(name):
    alone = {"paths": {"data": "data"}, "hydra": {"overrides": {"task": [], "hydra": []}}}
    return OmegaConf.merge(alone, OmegaConf.load(CONF / "experiment" / f"{name}.yaml"))


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def test_the_papers_have_22_tables_and_12_figures_of_results():
    assert (len(TABLES), len(GRIDS)) == (22, 34)


@pytest.mark.parametrize("name", GRIDS)
def test_each_choice_of_a_grid_composes(name, tmp_path):
    cells = combinations(swept(preset(name)))
    for cell in {cells[number * (len(cells) - 1) // 5] for number in range(6)}:  # the ends too
        cfg = composed(f"experiment={name}", f"paths.outputs={tmp_path}", *cell)
        OmegaConf.set_readonly(cfg, False)
        assert cfg.protocol == name.split("_")[0]
        del cfg.hydra
        plain = OmegaConf.to_container(cfg, resolve=True)
        for choice in cell:
            key, _, value = choice.partition("=")
            if "." in key and "@" not in key:
                assert str(OmegaConf.select(cfg, key)).lower() == value.lower().strip("'")
            elif key in ("attack", "defense"):
                assert f".{key}s.{value}." in plain[key]["_target_"]


@pytest.mark.parametrize("name", TABLES)
def test_what_is_printed_belongs_to_cells_and_cells_to_what_is_printed(name):
    config = preset(name)
    paper, number = name.split("_table")
    assert list(config.table.printed) == [paper, number]
    axes = [
        {one.get_key_element(): str(one.value()) for one in map(parsed, cell)}
        for cell in combinations(swept(config))
    ]
    rows = {row.name: row for row in printed(paper, number)}.values()
    for row in rows:
        assert any(belongs(one, row) for one in axes) != (row.aux in YOURS), row
    for one in axes:
        assert any(belongs(one, row) for row in rows), one


@pytest.mark.parametrize("name", GRIDS)
def test_a_small_and_a_demo_size_take_the_place_of_the_papers(name, tmp_path):
    for size in ("small", "demo"):
        chosen = [f"experiment={name}", f"size={size}", f"paths.outputs={tmp_path}"]
        config = composed(*chosen)
        typed = {"hydra": {"overrides": {"task": [], "hydra": []}}}
        cells = combinations(swept(OmegaConf.merge(config, typed)))
        assert cells
        cell = composed(*chosen, *cells[0])
        assert cell.size == size
        assert cell.model.options.width == 16
        assert cell.seed == 0
        if size == "demo":
            assert (cell.dataset.name, cell.protocol, cell.dataset.image_size) == (
                "mnist",
                "none",
                32,
            )


def test_poison_rates_of_combat_in_table_3_are_of_all_images():
    cells = [
        cell for cell in combinations(swept(preset("unibp_table3"))) if "attack=combat" in cell
    ]
    assert len(cells) == 24
    assert composed("experiment=unibp_table3", *cells[0]).attack.poison_rate_base == "train_set"


def test_the_list_of_tables_is_up_to_date():
    assert Path(papers.__file__).with_suffix(".md").read_text() == papers.page()


def test_each_misprint_names_printed_numbers():
    for one in misprints():
        rows = [row for row in everything() if one["reason"] in row.reasons()]
        assert rows, one
        assert one["reason"].endswith(".")
