"""Victims are made once, whole or not at all, and survive being killed."""

import logging
import multiprocessing
import time

import pytest
import torch

from backdoor_lab.attacks.badnets import BadNets
from backdoor_lab.callbacks.resume import Resume
from backdoor_lab.store import Store
from backdoor_lab.training import CropFlip, Recipe, Tuning, one_cycle
from backdoor_lab.victims import load_victim, save_victim

KEY = {"attack": "badnets"}


def write(folder):
    (folder / "model.txt").write_text("whole")


def slow_maker(root, calls):
    def make(folder):
        calls.put(1)
        time.sleep(0.5)
        write(folder)

    Store(root).obtain("victim", KEY, make)


def test_made_once_and_found_again(tmp_path):
    first, cached = Store(tmp_path).obtain("victim", KEY, write)
    assert not cached
    second, cached = Store(tmp_path).obtain("victim", KEY, write)
    assert cached
    assert second == first
    assert Store(tmp_path).obtain("victim", {"attack": "sig"}, write)[0] != first


def test_two_processes_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    calls = context.Queue()
    jobs = [context.Process(target=slow_maker, args=(tmp_path, calls)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0]
    assert calls.get(timeout=5) == 1
    assert calls.empty()


@pytest.mark.parametrize("damage", ["changed", "gone", "no manifest"])
def test_damage_is_noticed_and_mended(tmp_path, caplog, damage):
    folder, _ = Store(tmp_path).obtain("victim", KEY, write)
    file = folder / ("manifest.json" if damage == "no manifest" else "model.txt")
    file.write_text("half") if damage == "changed" else file.unlink()
    with caplog.at_level(logging.WARNING):
        folder, cached = Store(tmp_path).obtain("victim", KEY, write)
    assert not cached
    assert "damaged" in caplog.text
    assert (folder / "model.txt").read_text() == "whole"


def test_an_interrupted_making_leaves_no_victim(tmp_path):
    def interrupted(folder):
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).obtain("victim", KEY, interrupted)
    folder, cached = Store(tmp_path).obtain("victim", KEY, write)
    assert not cached
    assert (folder / "model.txt").exists()


def test_a_victim_comes_back_as_it_was(tmp_path, spec, model, images):
    attack = BadNets(0.1, 0)
    attack.attach(spec, Recipe(epochs=1, batch_size=2, lr=0.1), seed=0)
    save_victim(tmp_path, model, attack, torch.tensor([3, 5]), {"seconds": 1.0})
    assert {file.suffix for file in tmp_path.iterdir()} == {".safetensors", ".json"}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.data.zero_()
    victim = load_victim(tmp_path, model, attack, cached=True)
    assert victim.poisoned.tolist() == [3, 5]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class KilledError(Exception):
    pass


class KillAfter(Resume):
    """Saves after every epoch, and dies after the second."""

    def on_train_epoch_end(self, trainer, pl_module, *_):
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.current_epoch == 1:
            raise KilledError


def tuning(factory_model):
    recipe = Recipe(epochs=4, batch_size=20, lr=0.05, schedule=one_cycle)
    return Tuning(factory_model, recipe, CropFlip(2, False), seed=0)


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, model, images, engine):
    start = {key: value.clone() for key, value in model.state_dict().items()}
    engine.fit(tuning(model.train()), images, "whole")
    whole = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(start)
    with pytest.raises(KilledError):
        engine.fit(tuning(model.train()), images, "a", [KillAfter(tmp_path, seconds=0)])
    model.load_state_dict(start)
    engine.fit(tuning(model.train()), images, "b", folder=tmp_path)
    for key, value in model.state_dict().items():
        assert torch.allclose(whole[key].float(), value.float(), atol=1e-6), key


def test_a_damaged_checkpoint_is_dropped(tmp_path):
    (tmp_path / Resume.FILE).write_bytes(b"not a checkpoint")
    assert Resume.found(tmp_path) is None
    assert not (tmp_path / Resume.FILE).exists()
