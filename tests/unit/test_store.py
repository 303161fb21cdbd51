"""Victims are made once, whole or not at all, and survive being killed."""

import errno
import logging
import multiprocessing
import shutil
import time

import pytest
import torch
from filelock import FileLock

from backdoor_lab.attacks.badnets import BadNets
from backdoor_lab.callbacks.resume import Resume
from backdoor_lab.digests import digest
from backdoor_lab.errors import ConfigError
from backdoor_lab.run.gate import made_readable
from backdoor_lab.store import RESUME, Store
from backdoor_lab.training import CropFlip, Recipe, Tuning, one_cycle
from backdoor_lab.victims.folder import load_victim, save_victim

KEY = {"attack": "badnets"}


def write(folder):
    (folder / "model.txt").write_text("whole")


def slow_maker(root, calls):
    def make(folder):
        calls.put(1)
        time.sleep(0.5)
        write(folder)

    Store(root).make_once("victim", KEY, make)


def test_made_once_and_found_again(tmp_path):
    first, cached = Store(tmp_path).make_once("victim", KEY, write)
    assert not cached
    second, cached = Store(tmp_path).make_once("victim", KEY, write)
    assert cached
    assert second == first
    assert Store(tmp_path).make_once("victim", {"attack": "sig"}, write)[0] != first


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


def test_the_lock_is_free_right_after(tmp_path):
    folder, _ = Store(tmp_path).make_once("victim", KEY, write)
    job = multiprocessing.get_context("fork").Process(target=free, args=(folder,))
    job.start()
    job.join()
    assert job.exitcode == 0


def free(folder):
    FileLock(folder.with_name(f"{folder.name}.lock")).acquire(timeout=0)


def changed(folder):
    (folder / "model.txt").write_text("half")


def gone(folder):
    (folder / "model.txt").unlink()


def a_folder_instead_of_a_file(folder):
    (folder / "model.txt").unlink()
    (folder / "model.txt").mkdir()


def no_manifest(folder):
    (folder / "manifest.json").unlink()


def empty_manifest(folder):
    (folder / "manifest.json").write_text("{}")


def manifest_of_another_kind(folder):
    (folder / "manifest.json").write_text("[1]")


def a_file_instead(folder):
    shutil.rmtree(folder)
    folder.write_text("no folder")


DAMAGES = [
    changed, gone, a_folder_instead_of_a_file, no_manifest, empty_manifest,
    manifest_of_another_kind, a_file_instead,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_mended(tmp_path, caplog, damage):
    folder, _ = Store(tmp_path).make_once("victim", KEY, write)
    damage(folder)
    with caplog.at_level(logging.WARNING):
        folder, cached = Store(tmp_path).make_once("victim", KEY, write)
    assert not cached
    assert "damaged" in caplog.text
    assert (folder / "model.txt").read_text() == "whole"


def test_what_is_damaged_is_kept_aside_once(tmp_path, caplog):
    for text in ("first", "second"):
        folder, _ = Store(tmp_path).make_once("victim", KEY, write)
        (folder / "model.txt").write_text(text)
    folder, _ = Store(tmp_path).make_once("victim", KEY, write)
    aside = folder.with_name(f"{folder.name}.damaged")
    assert (aside / "model.txt").read_text() == "second"
    assert aside.name in caplog.text


@pytest.mark.parametrize("stray", [".nfs0000000001", ".DS_Store", "model.txt~"])
def test_a_stray_file_costs_no_victim(tmp_path, stray):
    folder, _ = Store(tmp_path).make_once("victim", KEY, write)
    (folder / stray).write_text("")
    assert Store(tmp_path).make_once("victim", KEY, write) == (folder, True)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE])
def test_a_disk_that_cannot_be_read_costs_no_victim(tmp_path, monkeypatch, number):
    folder, _ = Store(tmp_path).make_once("victim", KEY, write)

    def fail(file):
        raise OSError(number, "not now", str(file))

    monkeypatch.setattr("backdoor_lab.store.folders.checksum", fail)
    with pytest.raises(OSError, match="not now") as error:
        Store(tmp_path).make_once("victim", KEY, write)
    assert isinstance(made_readable(error.value), ConfigError)
    assert (folder / "model.txt").read_text() == "whole"


def test_keys_whose_first_eight_digits_agree_are_two(tmp_path):
    one, other = {"seed": 78316}, {"seed": 120646}
    assert digest(one) == digest(other)
    Store(tmp_path).make_once("victim", one, write)
    assert not Store(tmp_path).make_once("victim", other, write)[1]


def test_an_interrupted_making_leaves_no_victim(tmp_path):
    def interrupted(folder):
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).make_once("victim", KEY, interrupted)
    folder, cached = Store(tmp_path).make_once("victim", KEY, write)
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


def test_a_file_where_the_partial_folder_should_be_gives_way(tmp_path):
    folder, _ = Store(tmp_path / "a").make_once("victim", KEY, write)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / f"{folder.name}.partial").write_text("no folder")
    assert (Store(tmp_path / "b").make_once("victim", KEY, write)[0] / "model.txt").exists()


@pytest.mark.parametrize("held", [b"not a checkpoint", {"state_dict": {}}, [1]])
def test_a_damaged_checkpoint_is_dropped(tmp_path, caplog, held):
    file = tmp_path / RESUME
    file.write_bytes(held) if isinstance(held, bytes) else torch.save(held, file)
    with caplog.at_level(logging.WARNING):
        assert Resume.found(tmp_path) is None
    assert not file.exists()
    assert "starts anew" in caplog.text
