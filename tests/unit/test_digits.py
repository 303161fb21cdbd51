from pathlib import Path

import pytest
import torch

from backdoor_lab.datasets.digits import Digits, enlarge
from backdoor_lab.errors import ConfigError

OPTIONS = {
    "name": "digits",
    "image_size": 32,
    "num_classes": 10,
    "mean": (0.4766,) * 3,
    "std": (0.0944,) * 3,
    "padding": 2,
    "flip": False,
    "split_seed": 0,
    "reserved": 0.05,
    "limit_train": None,
    "limit_test": None,
    "root": None,
    "cache": Path("unused"),
    "paper": 0.4,
    "ink": 0.25,
}


def digits(**changes):
    return Digits(**{**OPTIONS, **changes})


def test_sizes_and_classes():
    raw = digits().read()
    assert raw.train_images.shape == (1437, 3, 32, 32)
    assert raw.test_images.shape == (360, 3, 32, 32)
    assert raw.classes == tuple("0123456789")
    counts = raw.test_labels.bincount()
    assert counts.min() >= 34
    assert counts.max() <= 37


def test_grey_levels():
    images = digits().read().train_images
    assert images.min() == round(0.4 * 255)
    assert images.max() == round(0.65 * 255)
    assert (images[:, 0] == images[:, 2]).all()


def test_normalisation_is_that_of_the_images():
    images = digits().read().train_images.double() / 255
    assert images.mean().item() == pytest.approx(OPTIONS["mean"][0], abs=1e-3)
    assert images.std().item() == pytest.approx(OPTIONS["std"][0], abs=1e-3)


def test_enlarge_repeats_cells():
    levels = torch.rand(2, 8, 8)
    images = enlarge(levels, 32)
    expected = (levels * 255).round().byte().repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(images[:, 1], expected)


def test_split_follows_its_seed():
    first, again, other = digits().load(), digits().load(), digits(split_seed=1).load()
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
    assert len(first.train) + len(first.reserved) == 1437


def test_too_white_is_refused():
    with pytest.raises(ConfigError, match=r"dataset\.paper"):
        digits(paper=0.9)
