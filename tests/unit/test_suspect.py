"""The model that `make suspect` prepares is one that can be brought in."""

from copy import deepcopy

import torch
from torch import nn

from backdoor_lab.datasets import DataSpec
from backdoor_lab.models import ModelFactory, replace, save_purified
from backdoor_lab.victims.imported.opening import opened
from benchmarks.rehearsal import taken_home
from benchmarks.suspect import (
    CHANNELS,
    HELD,
    MEAN,
    STD,
    TARGET,
    digits,
    normalised,
    prepare,
    triggered,
)


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


def exported(folder, net):
    """What a run leaves of a purified model: its own files, and those for whoever brought it."""
    (folder / "model").mkdir(parents=True)
    save_purified(folder, net)
    torch.save(net.net.state_dict(), folder / "model" / "state_dict.pt")


def test_what_was_exported_answers_the_same_where_it_came_from(tmp_path):
    spec = DataSpec("digits", tuple("0123456789"), (3, 32, 32), (MEAN,) * 3, (STD,) * 3, 0, False)
    factory = ModelFactory("resnet18", small_stem=False, options={"channels": list(CHANNELS)})
    net = factory.build(spec, seed=0).eval()
    exported(tmp_path / "whole", net)
    images, _ = digits(32)
    smaller = deepcopy(net)
    changed = nn.Conv2d(3, 64, 5, 2, 2, bias=False)
    replace(smaller, "net.conv1", changed)
    exported(tmp_path / "changed", smaller)
    for name, expected in {"whole": net, "changed": smaller}.items():
        loader, home = taken_home(tmp_path / name)
        assert loader == ("timm, strictly" if name == "whole" else "load_purified")
        with torch.no_grad():
            torch.testing.assert_close(home(normalised(images[:4])), expected(images[:4]))
