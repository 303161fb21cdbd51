import doctest
import math

import pytest
import torch

from backdoor_lab.metrics import (
    AttackSuccessRate,
    CleanAccuracy,
    RobustAccuracy,
    accuracy,
    attack_success_rate,
    backdoor,
    defense_effectiveness,
    robust_accuracy,
    stealth,
)


def test_doctests():
    result = doctest.testmod(backdoor)
    assert result.attempted >= 4
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


PAIRS = [
    (CleanAccuracy, accuracy),
    (AttackSuccessRate, attack_success_rate),
    (RobustAccuracy, robust_accuracy),
]


@pytest.mark.parametrize(("metric", "function"), PAIRS)
def test_metric_over_batches_equals_function_on_all(metric, function):
    torch.manual_seed(0)
    logits, labels = torch.randn(100, 4), torch.randint(0, 4, (100,))
    counted = labels != 2
    kept = metric()
    for part in torch.arange(100).split(33):
        kept.update(logits[part], labels[part], counted[part])
    assert kept.compute().item() == function(logits, labels, counted)
    assert function(logits, labels, counted) == function(logits.argmax(1), labels, counted)
    expected = (logits.argmax(1) == labels)[counted].double().mean().item()
    assert function(logits, labels, counted) == pytest.approx(expected)


@pytest.mark.parametrize(("metric", "function"), PAIRS)
def test_no_image_counts(metric, function):
    nobody = torch.zeros(3, dtype=torch.bool)
    assert math.isnan(function(torch.arange(3), torch.arange(3), nobody))


def test_metric_resets_and_knows_its_direction():
    kept = CleanAccuracy()
    kept.update(torch.tensor([1, 1]), torch.tensor([1, 0]))
    kept.reset()
    kept.update(torch.tensor([1]), torch.tensor([1]))
    assert kept.compute() == 1
    assert CleanAccuracy.higher_is_better
    assert RobustAccuracy.higher_is_better
    assert AttackSuccessRate.higher_is_better is False
    assert CleanAccuracy.full_state_update is False


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
