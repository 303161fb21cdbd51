"""BTI-DBF: which features are benign, a generator that spares them, where it leads."""

import pytest
import torch
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.detectors.bti_dbf import BTIDBF
from backdoor_lab.detectors.bti_dbf.bti_dbf import shares_of
from backdoor_lab.detectors.bti_dbf.decoupling import benign_mask, decoupled, reversal
from backdoor_lab.models.unet import UNet

HOW = {
    "width": 8,
    "steps": 3, "batch_size": 8, "lr": 1e-3, "image_bound": 0.3, "feature_bound": 3.0,
    "benign": 0.01,
}  # fmt: skip
STD = torch.ones(1, 3, 1, 1)


def test_the_feature_that_decides_is_held_to_be_benign():
    torch.manual_seed(0)
    features = torch.rand(200, 8)
    labels = (features[:, 0] > 0.5).long()
    head = nn.Linear(8, 2)
    with torch.no_grad():
        head.weight.copy_(0.02 * torch.randn(2, 8))
        head.weight[:, 0] = torch.tensor([-8.0, 8.0])
        head.bias.copy_(torch.tensor([4.0, -4.0]))
    mask = benign_mask(head, features, labels, steps=400, lr=0.01, seed=0)
    assert mask[0] > 0.9
    assert mask[0] > mask[1:].max()


def test_the_generator_begins_near_the_identity_and_knows_any_side():
    for side in (8, 20, 33):
        images = torch.rand(2, 3, side, side)
        torch.testing.assert_close(UNet(3, width=4)(images), images, atol=0.02, rtol=0)


def test_the_loss_pushes_other_features_and_keeps_bounds():
    images = torch.rand(4, 3, 8, 8) / 2
    mask = torch.tensor([1.0, 0.0])

    def features(batch):
        return batch[:, :2].mean((2, 3))

    def loss(changed):
        return decoupled(features, images, changed, mask, STD, HOW).item()

    benign, other = images.clone(), images.clone()
    benign[:, 0] += 0.1
    other[:, 1] += 0.1
    assert loss(images) == 0
    assert loss(benign) == pytest.approx(0.01 * 0.01 / 2, rel=1e-4)
    assert loss(other) == pytest.approx(-0.01 / 2, rel=1e-4)
    assert loss(images + 1) == pytest.approx(1)


def test_the_bound_of_the_images_is_in_normalised_units():
    images, changed = torch.zeros(4, 3, 8, 8), torch.full((4, 3, 8, 8), 0.2)
    std = torch.full((1, 3, 1, 1), 0.25)

    def features(batch):
        return batch[:, :2].mean((2, 3))

    loss = decoupled(features, images, changed, torch.tensor([1.0, 0.0]), std, HOW)
    assert loss.item() == pytest.approx((0.2 / 0.25) ** 2)  # out of bounds, which 0.2 ** 2 is not


def test_images_shrink_back_where_benign_features_are_out_of_bounds():
    images, changed = torch.zeros(4, 3, 8, 8), torch.full((4, 3, 8, 8), 0.1)

    def features(batch):
        return 30 * batch[:, :2].mean((2, 3))

    loss = decoupled(features, images, changed, torch.tensor([1.0, 0.0]), STD, HOW)
    assert loss.item() == pytest.approx(0.1**2)  # which is small: 3.0 ** 2 / 2 alone is over 3


def test_a_generator_learns_to_move_the_other_features():
    torch.manual_seed(0)
    images = torch.rand(16, 3, 8, 8) / 2

    def features(batch):
        return 10 * batch[:, :2].mean((2, 3))

    mask = torch.tensor([1.0, 0.0])
    generator = reversal(features, images, mask, STD, HOW | {"steps": 40}, seed=0)
    moved = (features(generator(images)) - features(images)).abs().mean(0)
    assert moved[1] > 3 * moved[0]
    assert not any(one.requires_grad for one in generator.parameters())


def test_with_the_identity_the_shares_are_the_models_own_errors():
    labels = torch.tensor([0, 0, 1, 1, 2])
    answers = torch.tensor([0, 1, 1, 1, 0])
    led = answers  # nothing is moved: whoever is led to a class was taken for it, and is left out
    assert shares_of(led, labels, answers, 3).tolist() == [0, 0, 0]
    led = torch.tensor([2, 2, 2, 0, 0])
    assert shares_of(led, labels, answers, 3).tolist() == pytest.approx([0.5, 0, 0.75])


@pytest.mark.parametrize(("threshold", "verdict"), [(None, "no verdict"), (0.999, None)])
def test_without_a_threshold_there_is_no_verdict(engine, spec, model, images, threshold, verdict):
    detector = BTIDBF(40, 5, 0.01, HOW, 0.03, threshold)
    detector.attach(engine, spec, seed=0)
    found = detector.inspect(model, AuxiliarySet("seen", images, True))
    assert found.verdict == (verdict or found.verdict)
    assert (found.calibrated is None) == (threshold is None)
    assert 0 <= found.scalar <= 1
    assert found.reference.classes[0] in spec.classes
    assert detector.shown["reversed"].shape == (10, 3, 32, 32)
