from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.calibration.gic import GIC, guide
from backdoor_lab.calibration.none import NoCalibration
from backdoor_lab.datasets import ImageSet
from backdoor_lab.training import Engine


@pytest.fixture(scope="module")
def engine():
    return Engine(accelerator="cpu", precision="32-true", progress=False)


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )
    return layers.train()


@pytest.fixture
def aux():
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (13, 3, 8, 8), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, 4, (13,), generator=draw)
    return AuxiliarySet("external", ImageSet.of(images, labels), True, {"size": 13})


def gic(steps=20, radius=0.1, batch_size=5):
    return GIC(steps=steps, lr=0.1, radius=radius, batch_size=batch_size)


@pytest.mark.parametrize("radius", [0.02, 0.1])
def test_radius_and_falling_loss(radius, model, aux, engine):
    calibrated = gic(radius=radius).calibrate(model, aux, engine, 0)
    change = (calibrated.data.images.float() - aux.data.images.float()).abs().max() / 255
    assert 0 < change <= radius + 1 / 255
    assert calibrated.details["loss_after"] < calibrated.details["loss_before"]
    assert calibrated.details["size"] == 13
    assert torch.equal(calibrated.data.labels, aux.data.labels)


def test_the_victim_is_left_alone(model, aux, engine):
    before = deepcopy(model.state_dict())
    gic().calibrate(model, aux, engine, 0)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_no_step_changes_nothing(model, aux, engine):
    calibrated = gic(steps=0).calibrate(model, aux, engine, 0)
    assert torch.equal(calibrated.data.images, aux.data.images)
    assert calibrated.details["loss_after"] == calibrated.details["loss_before"]


def test_independent_of_batch_mates(model):
    model.eval().requires_grad_(False)
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 4
    together = guide(model, images, labels, 10, 0.1, 0.1)
    alone = guide(model, images[2:3], labels[2:3], 10, 0.1, 0.1)
    torch.testing.assert_close(together[2:3], alone, rtol=0, atol=1e-4)


def test_first_step_goes_to_the_corner_of_the_box(model):
    model.eval().requires_grad_(False)
    images, labels = torch.full((2, 3, 8, 8), 0.5), torch.tensor([0, 1])
    leaf = images.clone().requires_grad_()
    slope = torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)[0]
    moved = guide(model, images, labels, 1, 0.1, 0.1)
    steep = slope.abs() > 1e-5
    assert steep.any()
    expected = images - 0.1 * slope.sign()
    torch.testing.assert_close(moved[steep], expected[steep], rtol=0, atol=1e-3)


def test_no_pixel_leaves_the_range_of_images(model):
    model.eval().requires_grad_(False)
    images = torch.zeros(2, 3, 8, 8)
    images[:, :, 4:] = 1
    moved = guide(model, images, torch.tensor([0, 1]), 5, 0.1, 0.1)
    assert not torch.equal(moved, images)
    assert moved.min() == 0
    assert moved.max() == 1


def test_labelled_images_follow_their_labels_against_the_predictions(model, aux, engine):
    predicted = engine.predict(deepcopy(model), aux.data).argmax(1)
    labels = (predicted + 1) % 4
    disputed = AuxiliarySet("external", ImageSet.of(aux.data.images, labels), True)
    calibrated = gic().calibrate(model, disputed, engine, 0)
    before, after = (
        F.cross_entropy(engine.predict(deepcopy(model), data), labels).item()
        for data in (disputed.data, calibrated.data)
    )
    assert calibrated.details["guided_by"] == "labels"
    assert calibrated.details["loss_before"] == pytest.approx(before)
    assert calibrated.details["loss_after"] == pytest.approx(after)
    assert after < before


def test_unlabelled_images_follow_the_predictions(model, aux, engine):
    hidden = ImageSet.of(aux.data.images, torch.zeros(13))
    calibrated = gic().calibrate(model, AuxiliarySet("seen", hidden, False), engine, 0)
    assert calibrated.details["guided_by"] == "predicted labels"
    assert not calibrated.labelled
    assert torch.equal(calibrated.data.labels, hidden.labels)
    predicted = engine.predict(deepcopy(model), hidden).argmax(1)
    assert torch.equal(engine.predict(deepcopy(model), calibrated.data).argmax(1), predicted)


def test_nothing_to_calibrate(model, aux, engine):
    nothing = AuxiliarySet("none", None, True)
    assert gic().calibrate(model, nothing, engine, 0) is nothing
    assert NoCalibration().calibrate(model, aux, engine, 0) is aux
