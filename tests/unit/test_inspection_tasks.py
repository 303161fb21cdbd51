"""Inspections and planted controls of tiny victims, and what their tables say."""

import pytest
from rich.console import Console

from backdoor_lab.errors import ConfigError
from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.records import Evidence, Inspection, Planted, Rule, read_record
from backdoor_lab.reports.inspection import inspection_tables, pointed, rule
from backdoor_lab.run.job import perform
from backdoor_lab.run.names import Names
from backdoor_lab.run.parts import Parts
from tests.records import record
from tests.unit.test_tasks import CHOICES, QUICK, Stranger

LOOK = (
    *QUICK[:-3], "pictures=false", "trainer.progress=false", "trainer.precision=32-true",
    "aux=seen", "aux.size=60",
)  # fmt: skip
CHEAP = ("detector=mm_bd", "detector.steps=2", "detector.starts=3")


@pytest.fixture
def run(config, tmp_path):
    def perform_with(task, *choices):
        cfg = config(f"task={task}", *LOOK, *choices)
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        names = Names.of(cfg, {**CHOICES, "task": task}, choices)
        return perform(cfg, names, folder), folder

    return perform_with


def text(found):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in inspection_tables(found):
        console.print(table)
    return " ".join(console.export_text().split())


def test_a_victim_is_inspected_and_the_record_read_again(run, monkeypatch, caplog):
    monkeypatch.setattr("backdoor_lab.tasks.inspect.clean_accuracy", lambda *arguments: 1.5)
    found, folder = run("inspect", *CHEAP, "pictures=true")
    evidence = found.inspection.evidence["victim"]["mm_bd"]
    assert len(evidence.scores) == 10
    assert evidence.calibrated.threshold == 3.82
    assert found.purified is None
    assert found.chain == ()
    assert found.details["test"]["images"]
    assert "points below the clean model's 150.0 %" in caplog.text
    assert read_record(folder) == found
    assert {"evidence.png", "inverted_victim.png"} <= {file.name for file in folder.iterdir()}
    (folder / "evidence.png").unlink()
    again, _ = run("inspect", *CHEAP, "pictures=true")
    assert again == found
    assert (folder / "evidence.png").exists()


def test_a_stranger_is_inspected_and_purified_with_nothing_known(run, monkeypatch):
    monkeypatch.setattr("backdoor_lab.victims.trained.Trained", Stranger)
    found, _ = run(
        "inspect", *CHEAP, "aux=reserved", "aux.size=16", "defense=ft", "defense.epochs=1"
    )
    assert set(found.inspection.evidence) == {"victim", "purified", "sham"}
    assert found.purified.asr is None
    assert found.inspection.sham.acc >= 0
    assert found.inspection.changes["purified"].drift > 0
    shown = text(found)
    assert "clean model" in shown
    assert "same answers" in shown


def test_without_images_there_is_no_sham_and_the_rest_goes_through(run):
    found, _ = run("inspect", *CHEAP, "aux=none", "defense=clp")
    assert set(found.inspection.evidence) == {"victim", "purified"}
    assert found.purified.der is not None


def test_plants_are_made_purified_and_told(run, monkeypatch, caplog):
    monkeypatch.setattr("backdoor_lab.tasks.control.clean_accuracy", lambda *arguments: 1.5)
    lessons = ["task.lessons.rates=[0.02]", "task.lessons.steps=40", "task.lessons.acc_drop=1"]
    found, folder = run(
        "control", *lessons, "task.lessons.asr=0.3", "~task.plants.wanet", "~task.plants.blended",
        "defense=clp", *CHEAP,
    )  # fmt: skip
    plant = found.inspection.planted["badnets"]
    assert plant.learnt
    assert plant.after is not None
    assert plant.interval[0] <= plant.after.asr <= plant.interval[1]
    assert plant.target != "0"  # the victim's own
    assert "points below the clean model's 150.0 %" in caplog.text
    assert set(found.inspection.evidence) == {"victim", "sham", "badnets"}
    assert read_record(folder) == found
    assert "steps at 0.02" in text(found)


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        (
            ("task=control", "aux=none", "defense=clp"),
            "task=control plants backdoors with labelled images",
        ),
        (("task=control", "aux.labelled=false", "defense=none"), "labelled images"),
        (("task=inspect", "detector=neural_cleanse", "aux=none"), "detector=neural_cleanse does"),
        (("task=inspect", "detector=bti_dbf", "aux.labelled=false"), "needs labels"),
        (("task=inspect", "detector=strip"), "paths.suspected=null names no folder"),
        (("task=inspect", "paths.suspected=/nowhere"), "paths.suspected=/nowhere is no folder"),
        (("task=inspect", "detector=mm_bd", "detector.steps=0"), "detector.steps=0"),
        (("task=inspect", "defense=ft", "aux=none"), "aux=none, but defense=ft needs images"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_work_is_refused_before_data_load(config, choices, sentence):
    with pytest.raises(ConfigError, match=sentence.replace(".", r"\.")):
        Parts.of(config(*QUICK[:4], *choices))


@pytest.mark.parametrize("defense", ["clp", "anp", "sau", "i_bau", "aft", "rnp", "ft_tuned"])
def test_beside_what_does_not_tune_by_sgd_all_values_of_the_sham_are_those_of_ft(config, defense):
    sham = config("task=inspect", f"defense={defense}", "protocol=bb").task.sham
    ft = config("defense=ft", "protocol=bb").defense
    for key in ("epochs", "lr", "batch_size", "t_max", "patience", "momentum", "weight_decay"):
        assert sham[key] == ft[key], key


def test_the_sham_has_the_values_of_the_first_defense_that_tunes(config):
    alone = config("task=inspect", "defense=pam", "defense.lr=0.3").task.sham
    assert (alone.lr, alone.momentum, alone.weight_decay, alone.rounds) == (0.3, 0.1, 0, 1)
    later = config("task=inspect", "defense=anp", "defense@then=nad", "then.epochs=3").task.sham
    assert (later.epochs, later.lr, later.weight_decay) == (3, 0.03, 1e-4)
    first = config("task=inspect", "defense=unibp", "defense@then=nad").task.sham
    assert (first.lr, first.lr_floor) == (0.05, 0.0002)


def test_a_larger_patch_is_planted_in_proportion(config):
    for side, patch in ((32, 5), (224, 35)):
        cfg = config("task=control", "dataset=imagefolder", f"dataset.image_size={side}")
        assert [one.size for one in cfg.task.plants.badnets] == [None, patch]


def test_an_inspection_needs_no_defense_and_a_control_no_detector(config):
    assert Parts.of(config("task=inspect")).defense.idle
    assert not Parts.of(config("task=inspect", "defense=unibp")).defense.idle
    control = Parts.of(config("task=control"))
    assert not control.defense.idle
    assert not control.detector.members


def test_words_are_never_a_verdict_of_innocence():
    rules = (
        Rule("MAD index", 2.5, ">", 2.0, True, ("7",)),
        Rule("MAD index", 2.5, ">", 3.82, False),
    )
    one = Evidence("not flagged", "warps", None, {"7": 1.0}, "7", 2.5, *rules, seconds=1.5)
    assert pointed(one) == "(7)"
    assert rule(rules[0]) == "MAD index 2.5 > 2"
    assert rule(rules[1]) == "MAD index 2.5 ≤ 3.82"
    shown = text(record(inspection=Inspection({"victim": {"neural_cleanse": one}})))
    assert "no evidence found" in shown
    assert "warps" in shown
    assert "is clean" not in shown


@pytest.mark.parametrize(
    ("victim", "plants", "blind"),
    [
        ("not flagged", ["not flagged", "not flagged"], True),
        ("not flagged", ["not flagged", "flagged"], False),
        ("not flagged", ["no verdict", "no verdict"], False),
        ("flagged", ["not flagged", "not flagged"], False),  # a sign is not withheld
    ],
)
def test_a_detector_that_sees_no_plant_finds_nothing_out_by_seeing_nothing(victim, plants, blind):
    verdicts = {"victim": victim, **dict(zip(["badnets", "wanet"], plants, strict=True))}
    evidence = {name: {"mm_bd": Evidence(one, "warps")} for name, one in verdicts.items()}
    shown = text(record(inspection=Inspection(evidence, planted=planted("badnets", "wanet"))))
    assert ("not applicable: sees no plant" in shown) == blind


def planted(*names):
    scores = Scores(0.9, 0.99)
    tried = ({"steps": 20, "lr": 0.01, "strength": 0},)
    return {name: Planted(True, "3", {}, 60, 50, 0.1, scores, tried=tried) for name in names}
