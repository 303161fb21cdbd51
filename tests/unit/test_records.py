"""One typed result: what is written is what is read, and nothing else is taken for one."""

import json
import subprocess
import sys

import pytest

from backdoor_lab.config import ROOT
from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.records import (
    Cost,
    MadeFrom,
    Record,
    Spent,
    collect,
    mean_sd,
    read_failure,
    read_record,
)
from tests.records import record


def test_a_record_comes_back_as_it_was(tmp_path):
    written = record(
        made_from=MadeFrom("code", "data"),
        costs={"victim": Cost(10, 20, 1.5)},
        details={"attack": {"poisoned": 3}},
    )
    written.write(tmp_path)
    assert read_record(tmp_path) == written
    held = json.loads((tmp_path / "result.json").read_text())
    assert held["choices"]["attack"] == "wanet"
    assert held["victim"]["acc"] == 0.9144
    assert held["schema"] == 2


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"schema": 1, "purified": {}}', '{"schema": 2, "task": "purify"}']
)
def test_what_is_no_record_is_none(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    assert read_record(tmp_path) is None


def test_an_error_leaves_an_earlier_result(tmp_path):
    record().write(tmp_path)
    record(error="no luck", victim=None, purified=None).write(tmp_path)
    assert read_record(tmp_path).victim is not None
    assert read_failure(tmp_path).error == "no luck"
    record().write(tmp_path)
    assert read_failure(tmp_path) is None


def test_the_newest_of_each_cell_is_collected(tmp_path):
    record(seed=0).write(tmp_path / "a")
    record(seed=1).write(tmp_path / "b")
    newer = record(seed=1, victim=Scores(0.5))
    newer.write(tmp_path / "c")
    found = collect(tmp_path)
    assert list(found) == [tmp_path / "a", tmp_path / "c"]
    assert found[tmp_path / "c"] == newer


def test_purifications_with_other_seeds_are_other_cells(tmp_path):
    for seed in (None, 0, 1):
        record(defender_seed=seed).write(tmp_path / str(seed))
    assert len(collect(tmp_path)) == 3


def test_mean_and_deviation():
    assert mean_sd([0.5, 0.7, None]) == "60.0 ± 14.1"
    assert mean_sd([0.5]) == "50.0"
    assert mean_sd([None]) == "–"


def test_records_and_finished_runs_load_no_torch():
    code = (
        "import sys, backdoor_lab.records, backdoor_lab.run.launch, backdoor_lab.run.grid; "
        "print([m for m in ('torch', 'lightning', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_summary_names_models():
    assert set(record().summary()) == {"victim", "purified", "seconds"}
    assert "purified" not in record(purified=None).summary()
    assert {"acc_target", "acc_worst"} <= set(record().summary()["purified"])


def test_spent_defaults_to_nothing():
    assert Record("victim", {}, 0, "").spent == Spent()
