"""Rank scaling, and the attacker who trains around it (fact sheet B, section 5)."""

import pytest
import torch
from torch import nn

from backdoor_lab.attacks.adaptive import Adaptive
from backdoor_lab.attacks.badnets import BadNets
from backdoor_lab.models.rank_scaling import (
    RULES,
    centred,
    clipped,
    convolutions,
    raw,
    scale_rank_components,
)


def spiked(strength):
    torch.manual_seed(0)
    noise = nn.init.kaiming_normal_(torch.empty(256, 128, 3, 3))
    first, second = torch.randn(256, 1), torch.randn(1, 128 * 9)
    spike = first @ second / (first.norm() * second.norm())
    return noise + strength * spike.view_as(noise)


def top(weight):
    return torch.linalg.svdvals(weight.flatten(1))[0].item()


@pytest.mark.parametrize("rule", [centred, clipped, raw])
def test_no_threshold_changes_nothing(rule):
    weight = spiked(8)
    scaled, count = scale_rank_components(weight, 1e9, rule)
    assert torch.allclose(scaled, weight, atol=1e-5)
    assert count == 0


@pytest.mark.parametrize(
    ("rule", "least", "most", "left"),
    [(centred, 1, 2, 2.99), (clipped, 1, 2, 4.02), (raw, 11, 14, 2.03)],
)
def test_a_spike_shrinks(rule, least, most, left):
    weight = spiked(8)
    scaled, count = scale_rank_components(weight, 4, rule)
    assert top(weight) == pytest.approx(8.16, abs=0.2)
    assert least <= count <= most
    assert top(scaled) == pytest.approx(left, abs=0.25)


@pytest.mark.parametrize("rule", RULES.values())
def test_factors_lie_between_zero_and_one(rule):
    sigma = torch.cat([torch.rand(60), torch.tensor([9.0, 30.0])])
    factors = rule(sigma, 2)
    assert ((factors > 0) & (factors <= 1)).all()


def test_a_new_layer_is_a_fixed_point_of_all_rules_but_the_printed_one():
    torch.manual_seed(0)
    weight = nn.init.kaiming_normal_(torch.empty(128, 128, 3, 3), mode="fan_out")
    assert scale_rank_components(weight, 4, centred)[1] == 0
    assert scale_rank_components(weight, 4, clipped)[1] == 0
    assert scale_rank_components(weight, 4, raw)[1] > 0.9 * 256


def test_grouped_convolutions_are_left_alone():
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.Linear(8, 8))
    assert [name for name, _ in convolutions(net)] == ["1"]


@pytest.mark.parametrize(("include_last", "calls"), [(True, 1), (False, 0)])
def test_the_victim_is_scaled_after_each_epoch(shop, model, include_last, calls):
    attack = Adaptive(BadNets(0.1, 0), tau=1, include_last=include_last)
    attack.attach(shop.data.spec, shop.recipe, seed=0)
    chosen = attack.train_victim(model, shop)
    assert len(chosen) == 6
    assert len(attack.details["scaled_components"]) == calls
    assert sum(attack.details["scaled_components"]) >= 20 * calls


def test_the_inner_attack_answers_for_the_trigger(shop, images):
    inner, wrapped = BadNets(0.1, 3), Adaptive(BadNets(0.1, 3))
    for attack in (inner, wrapped):
        attack.attach(shop.data.spec, shop.recipe, seed=0)
    assert torch.equal(inner.stamp(images.images), wrapped.stamp(images.images))
    assert torch.equal(inner.counted(images.labels), wrapped.counted(images.labels))
    assert (wrapped.relabel(images.labels) == 3).all()
