"""A finished run is shown again, unless what shaped it has changed or the user insists."""

import shlex
from dataclasses import replace

import pytest
from hydra import compose

from backdoor_lab.config.identity import folder_digest, run_identity, victim_identity
from backdoor_lab.digests import state_below
from backdoor_lab.records import MadeFrom
from backdoor_lab.run.finished import CODE, State, asked_of, note_fingerprint, state_of
from backdoor_lab.run.names import Names
from tests.records import record

COMMON = ("attack=badnets", "defense=clp", "aux=none", "pictures=false", "keep_model=false")


@pytest.fixture
def leave(tmp_path):
    """Leaves a record of a run as this code and these data would make it."""

    def write(cfg, **changes):
        made_from = MadeFrom(CODE.of(run_identity(cfg)), "these")
        record(made_from=replace(made_from, **changes)).write(tmp_path)
        note_fingerprint(cfg, asked_of(cfg), "these")

    return write


def test_a_result_of_the_same_code_and_data_is_current(config, leave, tmp_path):
    leave(config(*COMMON))
    assert state_of(config(*COMMON), tmp_path)[1] is State.CURRENT
    assert state_of(config(*COMMON, "force=true"), tmp_path)[1] is State.ABSENT


@pytest.mark.parametrize("change", [{"code": "of another day"}, {"data": "others"}])
def test_a_result_of_other_code_or_data_is_stale(config, leave, tmp_path, change):
    leave(config(*COMMON), **change)
    assert state_of(config(*COMMON), tmp_path)[1] is State.STALE


def test_without_a_note_only_the_data_can_tell(config, leave, tmp_path):
    leave(config(*COMMON))
    for note in (tmp_path / "notes").glob("fingerprint-*"):
        note.write_text("no note")
    assert state_of(config(*COMMON), tmp_path)[1] is State.UNTOLD


@pytest.mark.parametrize("key", ["pictures", "keep_model"])
def test_a_file_that_is_asked_for_later_is_missed(config, leave, tmp_path, key):
    leave(config(*COMMON))
    assert state_of(config(*COMMON, f"{key}=true"), tmp_path)[1] is State.INCOMPLETE


def test_nothing_is_finished_in_an_empty_folder(config, tmp_path):
    assert state_of(config(*COMMON), tmp_path) == (None, State.ABSENT)


def same(config, read, *choices):
    return read(config(*COMMON)) == read(config(*COMMON, *choices))


NOT_IDENTITY = [
    "trainer=cpu", "trainer.threads=1", "trainer.workers=0", "trainer.progress=false",
    "logger=csv", "force=true", "pictures=true", "keep_model=true", "paths.external=null",
]  # fmt: skip
LEARNING = [
    "trainer.precision=32-true", "trainer.limit_train_batches=3", "trainer.fast_dev_run=true",
    "trainer.gradient_clip_val=1", "recipe.epochs=3", "recipe.optimizer.momentum=0.5", "seed=1",
    "+trainer.callbacks.swa._target_=lightning.pytorch.callbacks.StochasticWeightAveraging",
]  # fmt: skip
PURIFYING = ["defender_seed=1", "defense.u=4", "aux=seen", "calibration=gic", "defense@then=ft"]


@pytest.mark.parametrize("choice", NOT_IDENTITY)
def test_what_changes_no_number_is_no_identity(config, choice):
    assert same(config, victim_identity, choice)
    assert same(config, run_identity, choice)


@pytest.mark.parametrize("choice", LEARNING)
def test_what_changes_learning_makes_another_victim(config, choice, monkeypatch):
    monkeypatch.setattr("backdoor_lab.config.machine.look", lambda *_: "bf16-mixed")
    assert not same(config, victim_identity, choice)
    assert not same(config, run_identity, choice)


@pytest.mark.parametrize("choice", PURIFYING)
def test_what_purifies_makes_another_run_of_the_same_victim(config, choice):
    assert same(config, victim_identity, choice)
    assert not same(config, run_identity, choice)


def test_facts_are_no_identity(config):
    cfg = config(*COMMON)
    before = run_identity(cfg)
    cfg.attack.facts.paper = "another"
    assert run_identity(cfg) == before


def test_other_files_of_a_user_make_another_run(config, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"one")
    choices = ("aux=external", f"paths.external={folder}")
    before = run_identity(config(*COMMON, *choices))
    folder_digest.cache_clear()
    (folder / "a.png").write_bytes(b"two")
    assert run_identity(config(*COMMON, *choices)) != before


def test_files_of_a_data_set_are_told_by_their_times(tmp_path):
    file = tmp_path / "set" / "a.bin"
    file.parent.mkdir()
    file.write_bytes(b"one")
    before = state_below(file.parent)
    assert state_below(file.parent) == before
    file.write_bytes(b"two!")
    assert state_below(file.parent) != before


@pytest.mark.parametrize(
    ("choices", "folder"),
    [
        ((), "badnets/clp-none"),
        (("task=victim",), "badnets/victim"),
        (("export=poisoned",), "badnets/export-poisoned"),
        (("defense@then=ft", "aux=seen"), "badnets/clp+ft-seen"),
        (("attack=adaptive", "attack@attack.inner=wanet"), "adaptive-wanet/clp-none"),
        (("aux=seen", "calibration=gic"), "badnets/clp-seen-gic"),
    ],
)
def test_a_path_holds_what_is_not_the_default(config, choices, folder):
    config()  # opens Hydra's configuration folder
    cfg = compose("config", [*COMMON, *choices], return_hydra_config=True)
    place = cfg.hydra.sweep.subdir
    assert place.startswith(f"digits/preact_resnet18_narrow/{folder}/seed0-")


def test_what_a_task_does_not_read_gives_no_other_folder(config):
    config()
    places = {
        compose("config", ["task=victim", *choice], return_hydra_config=True).hydra.sweep.subdir
        for choice in ([], ["defense=ft"], ["aux=none"], ["defender_seed=1"])
    }
    assert len(places) == 1


@pytest.mark.parametrize(("task", "read"), [("purify", True), ("victim", False)])
def test_choices_are_those_that_the_task_reads(config, task, read):
    config()
    cfg = compose("config", [*COMMON, f"task={task}"], return_hydra_config=True)
    names = Names.of(cfg, cfg.hydra.runtime.choices, ("aux.classes=['a b']",))
    assert ("aux" in names.choices) == read
    assert names.title == ("badnets-clp-none" if read else "badnets")
    assert shlex.split(names.command) == ["python", "run.py", "aux.classes=['a b']"]
