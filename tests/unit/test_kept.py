"""Records that are kept when the folder of results is gone."""

import json
import shutil
from contextlib import suppress

import pytest

from backdoor_lab.records import read_record
from benchmarks import kept
from tests.records import record


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "RECORDS", tmp_path / "records")
    return tmp_path / "trial"


def test_what_is_gone_is_laid_again(outputs):
    folder = outputs / "runs" / "seed0"
    made = record(seed=0, command=f"python run.py paths.outputs={outputs} dataset.root=/my/images")
    with suppress(KeyboardInterrupt), kept.kept(outputs, {"/my/images": "DIR"}):
        made.write(folder)
        raise KeyboardInterrupt
    shutil.rmtree(outputs)
    with kept.kept(outputs):
        found = read_record(folder)
    assert found.seed == 0
    assert found.victim == made.victim
    assert found.command == "python run.py paths.outputs=outputs/trial dataset.root=DIR"


def test_newer_results_take_the_place_of_kept_ones(outputs):
    record(seed=0).write(outputs / "runs" / "a")
    kept.keep(outputs)
    record(seed=2).write(outputs / "runs" / "b")
    record(seed=1).write(outputs / "runs" / "a")
    file = kept.keep(outputs)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["folder"], line["record"]["seed"]) for line in lines] == [
        ("runs/b", 2), ("runs/a", 1),
    ]  # fmt: skip
    kept.lay(outputs)  # over what is there
    assert read_record(outputs / "runs" / "a").seed == 1
