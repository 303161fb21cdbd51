"""A grid is judged by what its cells left, whoever ran them."""

import pytest
from hydra import compose
from omegaconf import OmegaConf

from backdoor_lab.config.identity import run_identity
from backdoor_lab.records import MadeFrom
from backdoor_lab.run.finished import CODE
from backdoor_lab.run.grid import Cell, Grid, checked, combinations, swept
from tests.records import record

COMMON = ["defense=none", "aux=none", "pictures=false", "keep_model=false"]


def test_cells_are_the_product_of_all_lists():
    cells = combinations(["attack=badnets,sig", "seed=range(0,2)", "force=true"])
    assert cells == [
        (f"attack={attack}", f"seed={seed}", "force=true")
        for attack in ("badnets", "sig")
        for seed in (0, 1)
    ]


def test_a_preset_sweeps_what_the_command_line_does_not_set():
    hydra = {
        "overrides": {"task": ["seed=7"]},
        "sweeper": {"params": {"seed": "0,1", "aux": "seen"}},
    }
    assert swept(OmegaConf.create({"hydra": hydra})) == ["aux=seen", "seed=7"]


@pytest.fixture
def cell(config, tmp_path):
    config()
    overrides = [*COMMON, f"paths.outputs={tmp_path}", f"paths.cache={tmp_path}"]
    return checked(tuple(overrides))


def test_a_cell_knows_its_folder_and_code(cell):
    cfg = compose("config", list(cell.overrides))
    assert cell.code == CODE.of(run_identity(cfg))
    assert cell.folder.parent.name == "none-none"


def test_cells_are_judged_by_records(cell, tmp_path):
    assert cell.record() is None
    record(made_from=MadeFrom("of another day", "")).write(cell.folder)
    assert cell.record() is None
    record(made_from=MadeFrom(cell.code, "")).write(cell.folder)
    assert cell.record() is not None
    record(error="later failure").write(cell.folder)
    assert cell.record() is None


def test_the_end_names_what_failed_and_exits_with_1(cell, caplog, tmp_path):
    lost = Cell(("attack=sig",), tmp_path / "nowhere", "code")
    record(made_from=MadeFrom(cell.code, "")).write(cell.folder)
    grid = Grid()
    grid.cells = [cell, lost]
    with caplog.at_level("INFO"), pytest.raises(SystemExit):
        grid.on_multirun_end(None)
    assert "1 done, 1 failed" in caplog.text
    assert "attack=sig (left no result)" in caplog.text
    grid.cells = [cell]
    grid.on_multirun_end(None)
