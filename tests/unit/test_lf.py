"""LF: the low-pass filter, DeepFool, and the perturbation made of both."""

import pytest
import torch
from torch import nn

from backdoor_lab.attacks.lf import LF
from backdoor_lab.attacks.lf.deepfool import OVERSHOOT, classes, deepfool
from backdoor_lab.attacks.lf.lf import settled
from backdoor_lab.attacks.lf.smoothing import gaussian, gaussian_low_pass, stretched
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe


def attached(spec, target=0, **options):
    attack = LF(0.1, target, **options)
    attack.attach(spec, Recipe(epochs=1, batch_size=2, lr=0.1), seed=0)
    return attack


def linear(spec, seed=0):
    torch.manual_seed(seed)
    size = spec.shape[0] * spec.shape[1] * spec.shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(size, spec.num_classes)).requires_grad_(False)


@pytest.fixture(scope="module")
def crafted(spec, images):
    attack = attached(spec, images=30)
    values, facts = attack.craft(linear(spec), images.images.float() / 255)
    attack.perturbation.copy_(values)
    return attack, facts


def dct(size):
    places = torch.arange(size)
    return (
        torch.cos(torch.pi / size * (places[None] + 0.5) * places[:, None])
        * (torch.where(places > 0, 2 / size, 1 / size) ** 0.5)[:, None]
    )


def test_gaussian_golden_numbers():
    kernel = gaussian(30, 6)
    assert kernel.sum().item() == pytest.approx(1)
    assert kernel[14:16].tolist() == pytest.approx([0.067086] * 2, abs=1e-6)
    assert kernel[[0, -1]].tolist() == pytest.approx([0.00363] * 2, abs=1e-5)


def test_low_pass_golden_numbers():
    kernel = gaussian(30, 6)
    row = gaussian_low_pass(torch.ones(1, 90, 32), kernel)[0, 45]
    assert row[[0, -2, -1]].tolist() == pytest.approx([0.567, 0.567, 0.5], abs=5e-4)
    assert (row - 1 < -1e-5).sum() == 29
    assert row[14:17].tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_low_pass_keeps_channels_apart():
    values = torch.zeros(3, 32, 32)
    values[1] = 1
    smooth = gaussian_low_pass(values, gaussian(30, 6))
    assert not smooth[[0, 2]].any()
    assert torch.allclose(smooth[1], smooth[1].T)


def test_sigma_goes_with_the_size_only_when_asked(spec):
    assert torch.equal(attached(spec).kernel(64), gaussian(30, 6))
    assert torch.equal(attached(spec, scale_sigma=True).kernel(64), gaussian(60, 12))


def test_stretched_spans_zero_to_one_and_leaves_no_nan():
    values = stretched(torch.tensor([-3.0, 1.0, 5.0]))
    assert values.tolist() == [0, 0.5, 1]
    assert stretched(torch.full((2,), 7.0)).tolist() == [0, 0]


def test_deepfool_reaches_the_target_of_a_linear_model_in_one_step():
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).requires_grad_(False)
    model[1].weight.copy_(weight)
    starts = torch.tensor([[1.0, 3.0], [3.0, 1.0]]).view(2, 1, 1, 2)
    moves = deepfool(model, starts, target=0, steps=2)
    nearest = torch.tensor([[1.0, -1.0], [0.0, 0.0]]).view(2, 1, 1, 2)
    assert torch.allclose(moves, (1 + OVERSHOOT) * nearest)
    assert classes(model, starts + moves).tolist() == [0, 0]


def test_deepfool_gives_up_what_it_does_not_reach(spec, images):
    starts = images.images[:10].float() / 255
    model = linear(spec)
    assert not deepfool(model, starts, 0, steps=1)[classes(model, starts) != 0].any()
    assert (classes(model, starts + deepfool(model, starts, 0, steps=50)) == 0).all()
    assert deepfool(model, starts[:0], 0, steps=5).shape == (0, 3, 32, 32)


def test_passes_stop_when_enough_are_fooled_or_nothing_changes():
    assert not settled([], 0.2)
    assert not settled([0.1, 0.15], 0.2)
    assert settled([0.1, 0.2], 0.2)
    assert settled([0.1, 0.1, 0.1, 0.1, 0.105], 0.2)
    assert not settled([0.1, 0.1, 0.1, 0.105], 0.2)


def test_perturbation_spans_the_amplitude_in_whole_levels(crafted):
    attack, facts = crafted
    levels = attack.perturbation * 255
    assert levels.min() == 0
    assert levels.max().item() == pytest.approx(51)
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert 0 <= facts["targeted_rate"] <= facts["fooling_rate"] <= 1


def test_perturbation_is_smooth(crafted):
    basis = dct(32)
    energy = (basis @ crafted[0].perturbation @ basis.T).square()
    energy[:, 0, 0] = 0
    outside = energy.sum() - energy[:, :8, :8].sum()
    assert outside < 0.005 * energy.sum()


def test_perturbation_climbs_to_the_target(spec, images):
    ramp = torch.linspace(-1, 1, 32).expand(spec.shape)
    model = linear(spec)
    model[1].weight.zero_()
    model[1].weight[3] = ramp.flatten()
    model[1].bias.zero_()
    model[1].bias[1] = 20  # what most images are taken for
    values, facts = attached(spec, 3, images=30).craft(model, images.images.float() / 255)
    assert torch.stack([values.flatten(), ramp.flatten()]).corrcoef()[0, 1] > 0.7
    assert facts["targeted_rate"] > 0.9


def test_stamp_adds_the_same_levels_to_every_image(crafted):
    attack = crafted[0]
    levels = (attack.perturbation * 255).round().int()
    dark = torch.randint(0, 200, (20, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(attack.stamp(dark).int() - dark, levels.expand(20, -1, -1, -1))
    bright = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
    change = attack.stamp(bright).int() - bright
    assert change.min() >= 0
    assert change.max() <= 51
    assert torch.equal(attack.stamp(bright).int(), (bright + levels).clamp(max=255))


def test_a_model_that_sees_nothing_but_the_target_is_refused(spec, images):
    model = linear(spec)
    model[1].bias[0] = 1e6
    with pytest.raises(ConfigError, match="attack.target=0"):
        attached(spec, images=30).craft(model, images.images.float() / 255)


def test_amplitude_that_eight_bits_lose_is_refused(spec):
    with pytest.raises(ConfigError, match="attack.amplitude=0.001"):
        attached(spec, amplitude=0.001)


def test_too_many_images_are_refused(spec, shop):
    with pytest.raises(ConfigError, match="allowed: 1 to 59"):
        attached(spec, images=60).prepare(shop)


def test_the_store_keeps_the_perturbation(spec, shop):
    first, again = (attached(spec, target=3, images=30, passes=2, steps=20) for _ in range(2))
    first.prepare(shop)
    again.prepare(shop)
    assert first.details["perturbation"] == again.details["perturbation"]
    assert torch.equal(first.perturbation, again.perturbation)
    assert first.perturbation.any()
