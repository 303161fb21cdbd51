"""A task's story with victims of which little is known, and with what is stored."""

import pytest

from backdoor_lab.errors import ConfigError
from backdoor_lab.records import read_record
from backdoor_lab.run.job import perform
from backdoor_lab.run.names import Names
from backdoor_lab.run.parts import Parts
from backdoor_lab.victims import Victim
from backdoor_lab.victims.trained import Trained

QUICK = (
    "dataset=digits", "dataset.limit_train=400", "dataset.limit_test=40", "recipe.epochs=1",
    "attack=badnets", "defense=clp", "pictures=false", "trainer.progress=false",
)  # fmt: skip
CHOICES = {
    "task": "purify", "victim": "trained", "dataset": "digits", "model": "narrow",
    "attack": "badnets", "defense": "clp", "aux": "none", "calibration": "none",
    "recipe": "quick", "protocol": "none",
}  # fmt: skip


@pytest.fixture
def run(config, tmp_path):
    def perform_with(*choices):
        cfg = config(*QUICK, *choices)
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        return perform(cfg, Names.of(cfg, CHOICES, choices), folder), folder

    return perform_with


class Stranger(Trained):
    """Knows a classifier and nothing of its backdoor."""

    knows_training = False

    def bring(self, attack, shop):
        model = shop.factory.build(shop.data.spec, 0).eval()
        return Victim(model, None, None, "stranger")


@pytest.fixture
def stranger(monkeypatch):
    monkeypatch.setattr("backdoor_lab.victims.trained.Trained", Stranger)


def test_without_a_trigger_asr_and_der_are_undefined(run, stranger):
    record, folder = run("aux=reserved", "aux.size=10")
    assert record.victim.acc >= 0
    assert record.victim.asr is None
    assert record.purified.der is None
    assert record.trigger is None
    assert read_record(folder) == record


def test_training_images_that_nobody_knows_are_refused(config, stranger):
    with pytest.raises(ConfigError, match="aux=seen draws on the victim's training images"):
        Parts.of(config(*QUICK, "aux=seen"))


def test_no_picture_costs_a_result(run, monkeypatch):
    def broken(*arguments):
        raise ValueError("no font")

    monkeypatch.setattr("backdoor_lab.tasks.purify.draw_pictures", broken)
    with pytest.raises(ValueError, match="no font"):
        run("pictures=true")
    _, folder = run()
    assert read_record(folder).purified is not None
    assert not list(folder.glob(".partial*"))


def test_what_a_finished_run_lacks_is_made_from_what_is_stored(run):
    first, folder = run("aux=none", "keep_model=false")
    assert not (folder / "purified.safetensors").exists()
    second, _ = run("aux=none", "keep_model=true")
    assert (folder / "purified.safetensors").exists()
    assert second.purified == first.purified
    assert second.spent.victim_cached
    third, _ = run("aux=none", "pictures=true")
    assert (folder / "scores.png").exists()
    fourth, _ = run("aux=none", "views=true")
    assert {"view_batch_norms.png", "view_line.png"} <= {file.name for file in folder.iterdir()}
    assert fourth.spent == third.spent == second.spent  # no model was purified again


def test_too_few_images_for_a_batch_are_refused_before_the_victim_is_trained(run, tmp_path):
    with pytest.raises(ConfigError, match=r"aux\.size, aux\.ratio mean 1 image"):
        run("aux=seen", "aux.size=1", "defense=ft")
    assert not (tmp_path / "victims").exists()
