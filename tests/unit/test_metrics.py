import doctest
import math

import pytest
import torch

from backdoor_lab.metrics import HitRate, backdoor, defense_effectiveness, stealth


def test_doctests():
    result = doctest.testmod(backdoor)
    assert result.attempted >= 2
    assert result.failed == 0


def test_der_golden():
    assert round(defense_effectiveness(0.9144, 0.9056, 0.9441, 0.0147), 4) == 0.9603


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0.9, 0.9, 1.0, 0.0), 1.0),
        ((0.9, 0.9, 0.8, 0.8), 0.5),
        ((0.8, 0.9, 0.1, 0.4), 0.5),  # neither a gain of ACC nor a rise of ASR counts
        ((1.0, 0.0, 0.5, 0.5), 0.0),
    ],
)
def test_der_properties(numbers, expected):
    assert defense_effectiveness(*numbers) == pytest.approx(expected)


def test_der_does_not_read_its_arguments_in_another_order():
    assert defense_effectiveness(0.9, 0.7, 1.0, 0.1) == pytest.approx((0.9 - 0.2 + 1) / 2)


def test_rate_over_batches_is_the_rate_over_all():
    torch.manual_seed(0)
    logits, wanted = torch.randn(100, 4), torch.randint(0, 4, (100,))
    rate = HitRate()
    for part in torch.arange(100).split(33):
        rate.update(logits[part], wanted[part])
    expected = (logits.argmax(1) == wanted).double().mean().item()
    assert rate.compute().item() == expected
    assert HitRate()(logits, wanted).item() == expected


def test_a_rate_over_no_image_is_undefined():
    assert math.isnan(HitRate()(torch.empty(0, 4), torch.empty(0)).item())


def test_each_call_is_a_rate_of_its_own():
    rate, logits = HitRate(), torch.eye(2)
    assert rate(logits, torch.tensor([0, 0])) == 0.5
    assert rate(logits, torch.tensor([0, 1])) == 1
    rate.reset()
    rate.update(logits, torch.tensor([1, 0]))
    assert rate.compute() == 0


def test_stealth_in_grey_levels_of_the_images_that_changed():
    clean = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    triggered = clean.clone()
    triggered[:2, :, 0, 0] = 16
    found = stealth(clean, triggered)
    assert found["linf"] == 16
    assert found["l2"] == pytest.approx(16 * 3**0.5)
    error = 16**2 / 256
    assert found["psnr"] == pytest.approx(10 * math.log10(255**2 / error), rel=1e-5)
    assert 0 < found["ssim"] < 1
