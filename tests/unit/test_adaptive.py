"""Rank scaling, and the attacker who trains around it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from backdoor_lab.attacks.adaptive import Adaptive
from backdoor_lab.attacks.badnets import BadNets
from backdoor_lab.attacks.bpp import Bpp
from backdoor_lab.attacks.input_aware import InputAware
from backdoor_lab.attacks.lira import LIRA
from backdoor_lab.attacks.sbl import SBL
from backdoor_lab.attacks.wanet import WaNet
from backdoor_lab.callbacks import rank_scaling
from backdoor_lab.callbacks.rank_scaling import RankScaling
from backdoor_lab.errors import ConfigError
from backdoor_lab.models.rank_scaling import (
    RULES,
    centred,
    clipped,
    convolutions,
    raw,
    scale_rank_components,
)
from backdoor_lab.store import Workshop
from backdoor_lab.training import Recipe

RECIPE = Recipe(epochs=1, batch_size=30, lr=0.01)


def fresh(size):
    """A kernel as PyTorch initialises it."""
    torch.manual_seed(0)
    return nn.Conv2d(size, size, 3).weight.detach()


def with_spikes(kernel, count):
    """`kernel` plus random rank-one terms of norm 10."""
    torch.manual_seed(1)
    for _ in range(count):
        spike = torch.einsum("o,i,k,l->oikl", *(torch.randn(side) for side in kernel.shape))
        kernel = kernel + 10 * spike / spike.norm()
    return kernel


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


@pytest.mark.parametrize("size", [64, 128])
def test_a_fresh_layer_is_left_alone_unless_the_printed_rule_says(size):
    kernel = fresh(size)
    counts = {name: scale_rank_components(kernel, 4, rule)[1] for name, rule in RULES.items()}
    assert counts["centred"] == counts["clipped"] == 0
    assert counts["raw"] >= 2 * size - 1
    assert torch.allclose(scale_rank_components(kernel, 4)[0], kernel, atol=1e-6)


@pytest.mark.parametrize("rule", RULES.values())
@pytest.mark.parametrize(("size", "spikes"), [(64, 1), (64, 2), (128, 5)])
def test_each_spike_is_a_component_of_both_unfoldings_and_nothing_else_is(rule, size, spikes):
    kernel = with_spikes(fresh(size), spikes)
    scaled, count = scale_rank_components(kernel, 4, rule)
    assert count == 2 * spikes
    assert top(scaled) < 0.95 * top(kernel)


def test_a_layer_of_few_components_has_no_extreme_one():
    kernel = with_spikes(torch.zeros(4, 4, 3, 3), 1)  # (n - 1) / sqrt(n) < 4 with n = 8
    assert scale_rank_components(kernel, 4)[1] == 0


def scale_once(model, optimizers=(), epoch=0, epochs=1, tau=1, **options):
    callback = RankScaling(tau, centred, **options)
    trainer = SimpleNamespace(
        num_training_batches=1, current_epoch=epoch, max_epochs=epochs, optimizers=optimizers
    )
    callback.on_train_batch_end(trainer, SimpleNamespace(model=model), None, None, 0)
    return callback


def test_convolutions_alone_are_scaled(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    callback = scale_once(model)
    kernels = {f"{name}.weight" for name, _ in convolutions(model)}
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed <= kernels
    assert len(changed) > len(kernels) / 2
    assert sum(callback.scaled) > 20


def test_a_new_network_is_a_fixed_point(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert scale_once(model, tau=4).scaled == [0]
    after = model.state_dict()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


@pytest.mark.parametrize("reset", [True, False])
def test_momentum_is_forgotten_where_asked(model, reset):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    kept = len(optimizer.state)
    assert kept > 0
    scale_once(model, [optimizer], reset_momentum=reset)
    assert len(optimizer.state) == (0 if reset else kept)
    optimizer.step()
    scale_once(model, [optimizer], reset_momentum=True, include_last=False)
    assert len(optimizer.state) == kept  # nothing was scaled, nothing is forgotten


def test_batches_before_the_last_are_followed_by_nothing(model):
    callback = RankScaling(1, centred)
    trainer = SimpleNamespace(num_training_batches=3, current_epoch=0, max_epochs=1, optimizers=[])
    for number in range(3):
        callback.on_train_batch_end(trainer, SimpleNamespace(model=model), None, None, number)
        assert len(callback.scaled) == (number == 2)


@pytest.fixture
def kernels(monkeypatch):
    """The kernels that are handed to the scaling."""
    seen = []

    def watched(weight, tau, factors):
        seen.append(weight)
        return scale_rank_components(weight, tau, factors)

    monkeypatch.setattr(rank_scaling, "scale_rank_components", watched)
    return seen


def trained(inner, shop, model, epochs=1, **options):
    attack = Adaptive(inner, **{"tau": 1} | options)
    attack.attach(shop.data.spec, replace(RECIPE, epochs=epochs), seed=0)
    return attack, attack.train_victim(model, shop)


@pytest.mark.parametrize(("include_last", "calls"), [(True, 3), (False, 2)])
def test_every_convolution_is_scaled_once_an_epoch(shop, model, kernels, include_last, calls):
    attack, _ = trained(BadNets(0.1, 0), shop, model, 3, include_last=include_last)
    expected = [convolution.weight for _, convolution in convolutions(model)] * calls
    assert [id(kernel) for kernel in kernels] == [id(kernel) for kernel in expected]
    assert len(attack.details["scaled_components"]) == calls


def test_nothing_comes_after_the_last_scaling(shop, model, monkeypatch):
    made = []

    def watched(*given):
        made.append(scale_rank_components(*given))
        return made[-1]

    monkeypatch.setattr(rank_scaling, "scale_rank_components", watched)
    trained(BadNets(0.1, 0), shop, model)
    for (kernel, _), (_, convolution) in zip(made, convolutions(model), strict=True):
        assert torch.equal(kernel, convolution.weight)


def test_generators_that_train_with_the_victim_are_not_scaled(shop, model, kernels):
    inner = InputAware(0.1, 0, width=4, mask_epochs=1, count_mask_epochs=False)
    attack, _ = trained(inner, shop, model, 2)
    own = {id(convolution.weight) for _, convolution in convolutions(model)}
    assert {id(kernel) for kernel in kernels} == own
    assert len(kernels) == 2 * len(own)
    assert len(attack.details["scaled_components"]) == 2
    assert sum(attack.details["scaled_components"]) > 20
    assert "masks" in attack.details


@pytest.fixture
def asked(monkeypatch):
    """The artifacts that were asked for: part, the settings' callbacks, name."""
    seen = []
    obtain = Workshop.obtain

    def watched(self, attack, part, module, settings, make):
        made = obtain(self, attack, part, module, settings, make)
        seen.append((part, settings["callbacks"], made.name))
        return made

    monkeypatch.setattr(Workshop, "obtain", watched)
    return seen


@pytest.mark.parametrize(
    ("build", "part"),
    [
        (lambda: SBL(BadNets(0.5, 0), 0.4, first_epochs=1, second_epochs=1), "sbl_first_stage"),
        (lambda: LIRA(0, stage1_epochs=1), "lira_generator"),
    ],
)
def test_first_stages_are_scaled_too_and_kept_apart(
    shop, model, kernels, asked, monkeypatch, build, part
):
    monkeypatch.setitem(shop.identity, "model", "tiny adaptive")
    attack, _ = trained(build(), shop, model)
    assert len(kernels) == 2 * len(list(convolutions(model)))
    assert len(attack.details["scaled_components"]) == 1  # of the victim's own training
    kernels.clear()
    plain = build()
    plain.attach(shop.data.spec, RECIPE, seed=0)
    plain.train_victim(model, shop)
    assert kernels == []
    assert [stage[:2] for stage in asked] == [
        (part, ["RankScaling(1.0, 'centred', True, False)"]), (part, []),
    ]  # fmt: skip
    assert asked[0][2] != asked[1][2]


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


@pytest.mark.parametrize(
    "build",
    [
        lambda: WaNet(0.1, 0, True),
        lambda: Bpp(0.1, 0, True),
        lambda: InputAware(0.1, 0, True, width=4, count_mask_epochs=False),
        lambda: LIRA(0, True),
        lambda: SBL(BadNets(0.1, 0, all_to_all=True)),
    ],
)
def test_all_to_all_passes_through(shop, build):
    attack, labels = Adaptive(build()), torch.arange(10)
    attack.attach(shop.data.spec, shop.recipe, seed=0)
    assert attack.all_to_all
    assert attack.relabel(labels).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert attack.counted(labels).all()


def test_what_the_inner_attack_is_holds_for_both():
    learnt = Adaptive(InputAware(0.1, 0, count_mask_epochs=False))
    assert learnt.learns_trigger
    assert learnt.crosses
    assert not Adaptive(BadNets(0.1, 0)).learns_trigger
    assert not Adaptive(BadNets(0.1, 0)).crosses


@pytest.mark.parametrize(
    ("attack", "key"),
    [
        (Adaptive(BadNets(0.1, 10)), r"^attack\.inner\.target=10"),
        (Adaptive(BadNets(0, 0)), r"^attack\.inner\.poison_rate=0"),
        (SBL(BadNets(0.1, 10)), r"^attack\.inner\.target=10"),
        (Adaptive(SBL(BadNets(0.1, 10))), r"^attack\.inner\.inner\.target=10"),
        (Adaptive(LIRA(0, network="unet")), r"^attack\.inner\.network=unet"),
    ],
)
def test_refusals_name_the_key_of_the_inner_attack(attack, key):
    with pytest.raises(ConfigError, match=key):
        attack.check((3, 30, 30), 10)


class Unprepared(BadNets):
    def prepare(self, shop):
        raise AssertionError("learnt for nothing")


@pytest.mark.parametrize("wrap", [lambda attack: attack, Adaptive])
def test_an_impossible_rate_is_refused_before_anything_is_learnt(shop, model, wrap):
    attack = wrap(Unprepared(0.001, 0))
    attack.attach(shop.data.spec, shop.recipe, seed=0)
    with pytest.raises(ConfigError, match="poison_rate=0.001"):
        attack.train_victim(model, shop)


def test_a_possible_rate_is_prepared(shop, model):
    attack = Unprepared(0.1, 0)
    attack.attach(shop.data.spec, shop.recipe, seed=0)
    with pytest.raises(AssertionError, match="learnt for nothing"):
        attack.train_victim(model, shop)
