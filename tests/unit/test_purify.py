"""What the defender is handed, what is said of it, and whom a victim is compared with."""

import json
import os
from types import SimpleNamespace

import pytest
import torch

from backdoor_lab.aux_data.seen import Seen
from backdoor_lab.calibration.none import NoCalibration
from backdoor_lab.defenses import Chain
from backdoor_lab.device import kind_of
from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.run.job import perform
from backdoor_lab.run.names import Names
from backdoor_lab.seeds import derive
from backdoor_lab.tasks._clean import clean_accuracy
from tests.records import record

QUICK = (
    "attack=badnets", "defense=none", "seed=5", "dataset.limit_train=100", "dataset.limit_test=50",
    "recipe.epochs=1", "pictures=false", "keep_model=false", "trainer.progress=false",
    "trainer.accelerator=cpu",
)  # fmt: skip


@pytest.fixture
def purify(config, tmp_path):
    """Runs the task, and hands back its record."""

    def run(*choices):
        names = Names("purify", record().choices, (), 5)
        return perform(config(*QUICK, *choices), names, tmp_path / "runs" / "one")

    return run


def spy(monkeypatch, owner, method, place, seeds):
    plain = getattr(owner, method)

    def called(*arguments):
        seeds[owner.__name__] = arguments[place]
        return plain(*arguments)

    monkeypatch.setattr(owner, method, called)


@pytest.mark.parametrize(("choices", "root"), [((), 5), (("defender_seed=8",), 8)])
def test_the_defender_draws_from_seeds_of_its_own(purify, monkeypatch, choices, root):
    seeds = {}
    spy(monkeypatch, Chain, "attach", 3, seeds)
    spy(monkeypatch, NoCalibration, "calibrate", 4, seeds)
    spy(monkeypatch, Seen, "pool", 3, seeds)
    result = purify("aux.per_class=2", *choices)
    assert seeds == {
        "Chain": derive(root, "defense"),
        "NoCalibration": derive(root, "calibration"),
        "Seen": derive(root, "aux"),
    }
    assert (result.seed, result.defender_seed) == (5, 8 if choices else None)


def test_a_record_tells_what_computed_it(purify):
    result = purify("aux.per_class=2", "trainer.precision=32-true")
    assert (result.device, result.precision) == (kind_of(torch.device("cpu")), "32-true")
    assert f"{os.cpu_count()} cores" in result.device


def test_a_set_without_the_target_class_is_said(purify, caplog):
    purify("aux.classes=[1,2]", "aux.size=8")
    assert "no image of the target class 0" in caplog.text


def test_models_that_only_guess_are_said(purify, monkeypatch, caplog):
    monkeypatch.setattr("backdoor_lab.tasks.purify.evaluate", lambda *arguments: Scores(0.1, 1.0))
    purify("aux.per_class=2")
    assert "victim: ACC is 10.0 %, about chance" in caplog.text
    assert "purified: ACC is 10.0 %, about chance" in caplog.text


@pytest.fixture
def stored(tmp_path):
    """Leaves a victim and the record of a run with it."""

    def leave(attack, acc, recipe):
        name = f"digits-narrow-{attack}-{recipe}"
        (tmp_path / "victims" / name).mkdir(parents=True)
        made_from = {"attack": attack, "code": f"of {attack}", "recipe": recipe, "seed": 0}
        text = json.dumps({"made_from": made_from})
        (tmp_path / "victims" / name / "victim.json").write_text(text)
        folder = tmp_path / "runs" / "digits" / "narrow" / attack / name
        record(attack=attack, victim=Scores(acc), victim_name=name).write(folder)
        return name

    return leave


def job(folder):
    names = SimpleNamespace(choices={"dataset": "digits", "model": "narrow"})
    paths = SimpleNamespace(outputs=folder)
    return SimpleNamespace(cfg=SimpleNamespace(paths=paths), names=names)


@pytest.mark.parametrize(("recipe", "found"), [("long", 0.97), ("short", None)])
def test_a_victim_is_compared_with_the_clean_model_made_alike(stored, tmp_path, recipe, found):
    stored("none", 0.97, "long")
    own = job(tmp_path)
    assert clean_accuracy(own, stored("badnets", 0.8, recipe)) == found
    assert clean_accuracy(own, "imported") is None


def test_a_later_clean_model_made_otherwise_hides_none(stored, tmp_path):
    victim = stored("badnets", 0.8, "long")
    clean, other = stored("none", 0.97, "long"), stored("none", 0.5, "short")
    runs = tmp_path / "runs" / "digits" / "narrow" / "none"
    record(attack="none", victim=Scores(0.95), victim_name=clean).write(runs / "older")
    for time, name in enumerate(["older", clean, other]):
        os.utime(runs / name / "result.json", (time, time))
    assert clean_accuracy(job(tmp_path), victim) == 0.97


@pytest.mark.parametrize("choices", [(), ("attack.all_to_all=true",)], ids=["one", "all"])
def test_relearning_stands_in_the_result(purify, choices, tmp_path):
    small = ("evaluation.relearn=2", "++evaluation.images=20", "++evaluation.epochs=1")
    purify("aux.per_class=2", *small, *choices)
    kept = json.loads((tmp_path / "runs" / "one" / "result.json").read_text())
    assert set(kept["relearned"]) == {"victim", "purified", "clean", "exact"}
    assert all(0 <= row["asr"] <= 1 for row in kept["relearned"].values())
