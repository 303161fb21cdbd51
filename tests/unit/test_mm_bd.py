"""MM-BD: margins of linear models, its p-value, batches of classes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import DataSpec
from backdoor_lab.detectors.mm_bd import MMBD, margin, p_value
from tests.tiny import SPEC

NOTHING = AuxiliarySet("none", None, True)
TEN = DataSpec("ten", tuple("0123456789"), (3, 8, 8), (0.5,) * 3, (0.5,) * 3, 1, True)


def detector(engine, spec, **changes):
    options = {"starts": 30, "steps": 300, "lr": 0.01, "stop": 1e-5, "project": True}
    made = MMBD(**options | {"threshold": None, "at_once": 1200} | changes)
    made.attach(engine, spec, seed=0)
    return made


def linear(classes, scale=1.0, shift=0.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, classes))
    with torch.no_grad():
        model[1].weight.mul_(scale)
        model[1].bias.mul_(scale).add_(shift)
    return model.eval()


def test_a_linear_margin_is_driven_to_its_largest(engine):
    model = linear(2)
    found = detector(engine, SPEC, lr=50, stop=0).inspect(model, NOTHING)
    weight, bias = model[1].weight, model[1].bias
    wanted = (weight[0] - weight[1]).relu().sum() + bias[0] - bias[1]
    assert found.scores["a"] == pytest.approx(wanted.item(), abs=1e-3)
    assert found.verdict == "no verdict"
    assert "2 classes" in found.reason


def test_classes_in_groups_and_alone_come_to_the_same(engine):
    model = linear(10)
    together, alone = (
        detector(engine, TEN, steps=20, at_once=size).inspect(model, NOTHING) for size in (1200, 30)
    )
    assert list(together.scores.values()) == pytest.approx(list(alone.scores.values()), abs=1e-5)
    assert together.images == alone.images == 10 * 30 * 20


@pytest.mark.parametrize(("side", "together"), [(16, 1200), (32, 1200), (64, 300), (224, 24)])
def test_of_large_images_fewer_pass_together(engine, side, together):
    spec = replace(TEN, shape=(3, side, side))
    assert detector(engine, spec).together(1200) == together
    assert detector(engine, spec).together(1) == 1


def test_a_constant_on_all_logits_and_their_scale_change_no_answer(engine):
    first, shifted = (
        detector(engine, TEN, steps=20, stop=0).inspect(linear(10, shift=s), NOTHING)
        for s in (0, 3.0)
    )
    assert list(shifted.scores.values()) == pytest.approx(list(first.scores.values()), abs=1e-4)
    values = [8.0, 9, 10, 11, 12, 13, 14, 15, 16, 25]
    assert p_value([7 * one for one in values]) == pytest.approx(p_value(values), rel=1e-4)


@pytest.mark.parametrize(("largest", "p"), [(19, 0.3160), (25, 2.37e-3), (30, 1.12e-5), (60, 0)])
def test_golden_p_values(largest, p):
    assert p_value([*range(10, 19), largest]) == pytest.approx(p, rel=5e-3, abs=1e-9)


def test_margins_that_are_not_all_positive_have_no_p_value(engine):
    assert p_value([-1.0, *range(1, 10)]) is None


def test_a_class_that_can_be_driven_further_is_named(engine):
    model = linear(10)
    with torch.no_grad():
        model[1].weight[3] += 0.3
    found = detector(engine, TEN, lr=0.5, steps=50).inspect(model, NOTHING)
    assert found.verdict == "flagged"
    assert found.suspected == ("3",)
    assert found.reference is None  # other margins are below 0, where the density has none


class Hill(nn.Module):
    """The margin of class 0 is highest where all pixels are 0.6."""

    def forward(self, images):
        height = -(images - 0.6).square().flatten(1).sum(1)
        return torch.stack([height, torch.zeros_like(height)], 1)


def test_without_projection_pixels_that_left_never_return(engine):
    free, held = (
        detector(engine, SPEC, lr=0.95, stop=0, project=project).inspect(Hill(), NOTHING)
        for project in (False, True)
    )
    assert held.scores["a"] == pytest.approx(0, abs=1e-4)
    assert free.scores["a"] < -0.15


class TwoHills(nn.Module):
    """The margin of class 0 is 1 on a hill at 0.2, and 2 on one at 0.8, by the first pixel."""

    def forward(self, images):
        left = images[:, 0, 0, 0] < 0.5
        top = torch.where(left, 0.2, 0.8)[:, None]
        height = torch.where(left, 1, 2) - (images.flatten(1) - top).square().sum(1)
        return torch.stack([height, torch.zeros_like(height)], 1)


def test_the_best_of_all_starts_counts(engine):
    made = detector(engine, SPEC, lr=0.25, steps=30, stop=0)
    found = made.inspect(TwoHills(), NOTHING)
    assert found.scores["a"] == pytest.approx(2, abs=1e-4)
    assert made.shown["largest margin"][0].float().mean() == pytest.approx(0.8 * 255, abs=1)


def test_margin():
    logits = torch.tensor([[1.0, 5.0, 2.0], [7.0, 0.0, 1.0]])
    assert margin(logits, torch.tensor([1, 2])).tolist() == [3.0, -6.0]
