"""What became of a model: answers, weights, calibration."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from backdoor_lab.datasets import ImageSet
from backdoor_lab.evaluation.change import calibration_error, change, divergence, drift
from tests.tiny import SPEC, tiny_aux


def test_a_model_that_stayed_has_not_changed(engine, tiny):
    data = tiny_aux(20).data
    same = change(tiny, deepcopy(tiny), data, SPEC.classes, engine)
    assert (same.agreement, same.divergence, same.drift) == (1, 0, 0)
    assert same.calibration[0] == same.calibration[1]
    assert set(same.by_class) == {"a", "b"}
    assert all(before == after for before, after in same.by_class.values())


def test_a_head_that_was_turned_round_agrees_nowhere(engine, tiny):
    turned = deepcopy(tiny)
    with torch.no_grad():
        turned.head.weight.copy_(turned.head.weight.flip(0))
        turned.head.bias.copy_(turned.head.bias.flip(0))
    data = tiny_aux(20).data
    found = change(tiny, turned, data, SPEC.classes, engine)
    assert found.agreement == 0
    assert found.divergence > 0
    for before, after in found.by_class.values():
        assert before + after == pytest.approx(1)


def test_drift_is_relative_and_undefined_for_other_shapes():
    one, other = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    one.weight.data, other.weight.data = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 5.0]])
    assert drift(one, other) == pytest.approx(0.2)
    assert drift(one, nn.Linear(3, 1, bias=False)) is None


def test_divergence_and_calibration_of_known_answers():
    even, sure = torch.zeros(4, 2), torch.tensor([[4.0, 0.0]] * 4)
    p = torch.tensor([4.0, 0.0]).softmax(0)
    wanted = 0.5 * (torch.log(0.5 / p)).sum().item()
    assert divergence(even, sure) == pytest.approx(wanted, rel=1e-5)
    labels = torch.tensor([0, 0, 1, 1])  # half of the sure answers are wrong
    assert calibration_error(sure, labels) == pytest.approx(p[0].item() - 0.5, abs=1e-5)


def test_labels_of_any_device_and_images_of_any_order(engine, tiny):
    data = tiny_aux(6).data
    shuffled = ImageSet.of(data.images.flip(0), data.labels.flip(0))
    first, second = (change(tiny, tiny, one, SPEC.classes, engine) for one in (data, shuffled))
    assert first.by_class == second.by_class
