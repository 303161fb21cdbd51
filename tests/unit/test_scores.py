"""DER, accuracy and the visibility of triggers."""

import doctest
import math

import pytest
import torch

from backdoor_lab.evaluation import scores
from backdoor_lab.evaluation.scores import Scores, defense_effectiveness
from backdoor_lab.evaluation.stealth import stealth
from backdoor_lab.training import accuracy


def test_doctests():
    result = doctest.testmod(scores)
    assert result.attempted >= 1
    assert result.failed == 0


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((0.9144, 0.9441), (0.9056, 0.0147), 0.9603),
        ((0.9, 1.0), (0.9, 0.0), 1.0),
        ((0.9, 0.8), (0.9, 0.8), 0.5),
        ((0.8, 0.1), (0.9, 0.4), 0.5),  # neither a gain of ACC nor a rise of ASR counts
        ((1.0, 0.5), (0.0, 0.5), 0.0),
        ((0.9, 1.0), (0.7, 0.1), 0.85),
        ((0.9, None), (0.9, 0.1), None),
    ],
)
def test_der(before, after, expected):
    found = defense_effectiveness(Scores(*before), Scores(*after))
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-4))


def test_accuracy_is_the_share_of_right_answers():
    torch.manual_seed(0)
    logits, labels = torch.randn(100, 4), torch.randint(0, 4, (100,))
    expected = (logits.argmax(1) == labels).double().mean().item()
    assert accuracy(logits, labels) == pytest.approx(expected, abs=1e-6)


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
