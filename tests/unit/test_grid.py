"""A grid is checked as a whole, run once, and judged by what its cells left, whoever ran them."""

import json
import os
from dataclasses import replace

import pytest
from filelock import FileLock
from hydra import compose
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from backdoor_lab.config.identity import run_identity
from backdoor_lab.errors import ConfigError
from backdoor_lab.records import MadeFrom, read_failure
from backdoor_lab.run import checking
from backdoor_lab.run.cells import Cell, combinations, is_plain, swept, victims_first
from backdoor_lab.run.checking import Checker, check_all
from backdoor_lab.run.claims import LOCK, claimed, is_claimed
from backdoor_lab.run.finished import CODE, asked_of, note_fingerprint
from backdoor_lab.run.grid import run_grid, work_off
from backdoor_lab.run.job import perform
from backdoor_lab.run.launching import works
from backdoor_lab.run.ledger import Ledger, victims
from backdoor_lab.run.names import Names
from backdoor_lab.store.locks import Busy
from backdoor_lab.tasks.report import troubles_of
from backdoor_lab.tasks.status import Status
from tests.records import record

COMMON = ["defense=none", "aux=none", "pictures=false", "keep_model=false"]


def test_cells_are_the_product_of_all_lists():
    cells = combinations([["attack=badnets,sig", "seed=range(0,2)", "force=true"]])
    assert cells == [
        (f"attack={attack}", f"seed={seed}", "force=true")
        for attack in ("badnets", "sig")
        for seed in (0, 1)
    ]


def test_a_preset_sweeps_what_the_command_line_does_not_set():
    sweeper = {"params": {"seed": "0,1", "aux": "seen"}}
    assert grids(sweeper, "seed=7") == [["aux=seen", "seed=7"]]


def test_a_preset_has_grids_beside_it_unless_their_keys_are_typed():
    sweeper = {
        "params": {"seed": "0,1", "aux": "seen"},
        "also": [{"seed": 0, "attack.target": "1,2"}, {"aux": None, "defense": "clp"}],
    }
    beside = ["seed=0", "aux=seen", "attack.target=1,2"]
    assert grids(sweeper) == [["seed=0,1", "aux=seen"], beside, ["seed=0,1", "defense=clp"]]
    assert grids(sweeper, "defense=ft")[1:] == [[*beside, "defense=ft"]]
    assert len(combinations(grids(sweeper))) == 2 + 2 + 2


def test_a_size_sets_other_values_where_a_preset_sets_any():
    sweeper = {
        "params": {"seed": "0,1", "dataset": "gtsrb"},
        "also": [{"seed": 0, "attack.target": "1,2"}],
        "instead": {"dataset": None, "seed": 0, "attack.target": 0, "model": "resnet18"},
    }
    assert combinations(grids(sweeper)) == [("seed=0",), ("seed=0", "attack.target=0")]


def grids(sweeper, *typed):
    overrides = {"task": typed, "hydra": []}
    return swept(OmegaConf.create({"hydra": {"overrides": overrides, "sweeper": sweeper}}))


@pytest.fixture
def common(config, tmp_path):
    config()  # opens Hydra's configuration folder
    return [*COMMON, f"paths.outputs={tmp_path}", f"paths.cache={tmp_path}"]


@pytest.fixture
def cell(common):
    return Checker().cell(tuple(common))


@pytest.fixture
def asked(common, tmp_path):
    """The config of a grid over two attacks and two seeds."""
    task = ["attack=badnets,sig", "seed=0,1", *common]
    hydra = {"overrides": {"task": task, "hydra": ["hydra.mode=MULTIRUN"]}, "sweeper": {}}
    hydra["runtime"] = {"config_sources": []}
    return OmegaConf.create({"hydra": hydra, "paths": {"outputs": str(tmp_path)}})


def finish(cell):
    record(made_from=MadeFrom(cell.code, "")).write(cell.folder)


def test_a_cell_knows_its_folder_and_code(cell):
    cfg = compose("config", list(cell.overrides))
    assert cell.code == CODE.of(run_identity(cfg))
    assert cell.folder.parent.name == "none-none"


def test_cells_are_judged_by_records(cell):
    assert cell.record() is None
    record(made_from=MadeFrom("of another day", "")).write(cell.folder)
    assert cell.record() is None
    finish(cell)
    assert cell.record() is not None
    record(error="later failure").write(cell.folder)
    assert cell.record() is None
    assert "later failure" in cell.why()


@pytest.mark.parametrize("change", [{"code": "of another day"}, {"data": "others"}, None])
def test_a_result_that_is_to_be_made_again_does_not_count_until_it_is(common, change):
    force = ["force=true"] if change is None else []
    first = Checker().cell((*common, *force))
    note_fingerprint(compose("config", common), asked_of(compose("config", common)), "these")
    made = MadeFrom(first.code, "these")
    record(made_from=replace(made, **(change or {}))).write(first.folder)
    cell = Checker().cell(first.overrides)
    assert not cell.current
    assert cell.record() is None
    assert cell.why() == "its result is of other code or data"
    again = cell.folder / "result.json"
    record(made_from=made).write(cell.folder)
    os.utime(again, ns=(cell.stale + 1, cell.stale + 1))
    assert cell.record() is not None


def test_a_later_failure_takes_nothing_from_a_finished_run(asked, tmp_path):
    cells = check_all(combinations(swept(asked)))
    for cell in cells:
        cfg = compose("config", list(cell.overrides))
        note_fingerprint(cfg, asked_of(cfg), "")
        finish(cell)
        record(error="force=true, which was refused").write(cell.folder)
    run_grid(asked, launch=None)  # nothing is to be run
    assert all(read_failure(cell.folder) is None for cell in cells)


@pytest.mark.parametrize(
    "text", ["seed=1", "aux.size=null", "attack.poison_rate=0.1", "force=true"]
)
def test_numbers_and_words_are_plain(text):
    assert is_plain(text)


@pytest.mark.parametrize(
    "text", ["attack=sig", "aux=seen", "+x.y=1", "~then", "defense@then=ft", "hydra.job.name=a",
             "aux.classes=[1]", "hydra/launcher=pool"],
)  # fmt: skip
def test_choices_and_new_keys_are_not_plain(text):
    assert not is_plain(text)


def test_cells_that_follow_each_other_are_those_that_are_composed_alone(common):
    grid = combinations([["attack=badnets,sig", "attack.poison_rate=0.1,0.2", "seed=0,1", *common]])
    found = check_all(grid)
    assert [cell.overrides for cell in found] == grid
    assert found == [Checker().cell(overrides) for overrides in grid]
    assert len({cell.folder for cell in found}) == len({cell.victim for cell in found}) == 8


def test_cells_of_one_victim_are_told(common):
    one, other = check_all(combinations([["defender_seed=1,2", "seed=0", *common]]))
    assert one.victim == other.victim
    assert one.folder != other.folder


def test_cells_whose_victim_is_there_do_not_wait(common, tmp_path):
    quick = ["recipe.epochs=1", "dataset.limit_train=200", "dataset.limit_test=100", "trainer=cpu"]
    one = (*common, *quick)
    hydra = compose("config", list(one), return_hydra_config=True).hydra
    names = Names.of(compose("config", list(one)), hydra.runtime.choices, one)
    perform(compose("config", [*one, "task=victim"]), names, tmp_path / "run")
    grid = combinations([["seed=0,1", "defender_seed=1,2", *one]])
    cells = check_all(grid)
    assert len({cell.victim for cell in cells if "seed=0" in cell.overrides}) == 2
    assert len({cell.victim for cell in cells if "seed=1" in cell.overrides}) == 1


def test_a_cluster_wants_a_precision_by_name_and_no_gpu_here(common, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    named = (*common, "trainer=gpu", "trainer.precision=bf16-mixed")
    unnamed, sent, here = (*check_all([(*common,), named], elsewhere=True), *check_all([named]))
    assert "trainer.precision=auto" in unnamed
    assert isinstance(sent, Cell)
    assert "trainer.accelerator=gpu" in here


def test_processes_check_as_one_does(common, monkeypatch):
    grid = combinations([["seed=range(0,6)", *common]])
    alone = check_all(grid)
    monkeypatch.setattr(checking, "ROW", 1)
    monkeypatch.setattr(checking, "cores_here", lambda: 2)
    assert check_all(grid) == alone


def test_a_value_that_does_not_fit_is_a_sentence_and_spoils_no_neighbour(common):
    bad, good, negative = check_all([(f"seed={seed}", *common) for seed in ("abc", 0, -1)])
    assert "could not be converted to Integer" in bad
    assert isinstance(good, Cell)
    assert "seed=-1 is negative" in negative


def test_a_task_that_only_looks_is_no_cell(common):
    assert "only looks" in check_all([("task=status", *common)])[0]


def test_the_first_cell_of_each_victim_comes_first(tmp_path):
    cells = [Cell((str(n),), tmp_path, "", victim) for n, victim in enumerate("aabcb")]
    assert [cell.victim for cell in victims_first(cells)] == list("abcab")


def test_a_grid_is_written_down_and_the_end_names_what_failed(asked, caplog, tmp_path):
    def launch(overrides, first):
        (file,) = (tmp_path / "grids").glob("*.json")
        known = victims(file)
        assert set(known) == {tuple(one) for one in overrides}
        for cell in Ledger.read(file).cells:
            finish(cell) if "attack=sig" in cell.overrides else None
        return [JobReturn(overrides=one, status=JobStatus.COMPLETED) for one in overrides]

    with caplog.at_level("INFO"), pytest.raises(SystemExit):
        run_grid(asked, launch)
    assert "2 done, 2 failed" in caplog.text
    assert caplog.text.count("(left no result)") == 2


@pytest.mark.parametrize("key", ["hydra.sweep.dir", "hydra.sweep.subdir", "hydra.run.dir"])
def test_other_folders_for_results_are_refused_in_a_grid(asked, key):
    asked.hydra.overrides.hydra.append(f"{key}=elsewhere")
    with pytest.raises(ConfigError, match=rf"{key}=elsewhere .*allowed: paths\.outputs"):
        run_grid(asked, launch=None)


def test_folders_of_a_user_s_own_yamls_reach_cells_and_commands(asked, capsys, tmp_path):
    mine = f"hydra.searchpath=[file://{tmp_path}]"
    asked.hydra.overrides.hydra.append(mine)
    asked.hydra.runtime.config_sources.append({"path": "/my/yamls", "provider": "command-line"})
    cells = check_all(combinations(swept(asked)))
    assert all(mine in cell.overrides for cell in cells)
    Ledger.of(asked, cells).write()
    (work, *_) = works(asked, [cell.overrides for cell in cells], 0)
    assert work.overrides == ("--config-dir=/my/yamls", *cells[0].overrides)
    assert work.victim == cells[0].victim
    Status().look(tmp_path)
    commands = [one for one in capsys.readouterr().out.splitlines() if "run.py" in one]
    assert len(commands) == 1 + len(cells)
    commands += [one.command for one in troubles_of(tmp_path, known=set())]
    assert len(commands) == 1 + 2 * len(cells)
    assert all("--config-dir=/my/yamls" in one and mine in one for one in commands)


def test_status_tells_what_is_done_failed_and_missing(asked, tmp_path, capsys):
    cells = check_all(combinations(swept(asked)))
    finish(cells[0])
    record(error="ValueError: why").write(cells[1].folder)
    cells[2].folder.mkdir(parents=True)
    Ledger.of(asked, cells).write()
    with FileLock(cells[2].folder / LOCK):
        Status().look(tmp_path)
    text = capsys.readouterr().out
    assert [word for word in text.split() if word.isdigit()][:5] == ["4", "1", "1", "1", "1"]
    assert "python run.py -m attack=badnets,sig seed=0,1" in text
    assert "failed (ValueError: why): python run.py attack=badnets seed=1" in text
    assert "missing: python run.py attack=sig seed=1" in text


def test_a_file_that_is_no_grid_is_passed_over(tmp_path, capsys):
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "a.json").write_text(json.dumps({"cells": [1]}))
    Status().look(tmp_path)
    assert "No grid in" in capsys.readouterr().out


def test_a_folder_has_one_owner_at_a_time(tmp_path):
    with claimed(tmp_path, patient=False):
        assert is_claimed(tmp_path)
        with pytest.raises(Busy), claimed(tmp_path, patient=False):
            pass
    assert not is_claimed(tmp_path)


@pytest.mark.parametrize("ends_well", [True, False])
def test_what_another_process_runs_is_looked_at_again_when_it_ended(cell, ends_well, monkeypatch):
    started = []
    cell.folder.mkdir(parents=True)
    other = FileLock(cell.folder / LOCK)

    def launch(overrides, first):
        started.append(first)
        told = JobReturn(overrides=overrides[0], status=JobStatus.COMPLETED)
        told.return_value = Busy() if len(started) == 1 else None
        return [told]

    def owner_ends(seconds):
        if ends_well:
            finish(cell)
        other.release()

    other.acquire()
    monkeypatch.setattr("backdoor_lab.run.grid.time.sleep", owner_ends)
    work_off([cell], launch)
    assert len(started) == (1 if ends_well else 2)
