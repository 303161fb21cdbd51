"""The model that `make suspect` prepares is one that can be brought in."""

import torch

from backdoor_lab.models import ModelFactory
from backdoor_lab.victims.imported.opening import opened
from benchmarks.suspect import CHANNELS, HELD, TARGET, digits, prepare, triggered


def test_a_suspect_is_a_file_and_two_folders(tmp_path):
    prepare(tmp_path, epochs=1)
    found = opened(tmp_path / "model.pt", ModelFactory("resnet18", options={"channels": CHANNELS}))
    assert found.outputs == 10
    assert not found.factory.small_stem
    assert len(list((tmp_path / "images").rglob("*.png"))) == HELD
    assert not (tmp_path / "triggered" / str(TARGET)).exists()


def test_the_square_is_all_that_a_trigger_adds():
    images, labels = digits(32)
    changed = (triggered(images) != images).any(1).float().mean(0)
    assert (changed > 0).sum() == 16
    assert torch.bincount(labels).min() > 150
