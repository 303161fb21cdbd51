"""Rank scaling: which components shrink by which rule, and when a training calls for it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from backdoor_lab.callbacks.rank_scaling import RankScaling
from backdoor_lab.models.rank_scaling import (
    RULES,
    centred,
    clipped,
    convolutions,
    raw,
    scale_rank_components,
)
from tests.unit.test_models import from_zoo, on_meta
from tests.unit.test_models import spec as zoo_spec


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


def test_grouped_convolutions_are_left_alone():
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.Linear(8, 8))
    assert [name for name, _ in convolutions(net)] == ["1"]


def test_linear_layers_in_disguise_are_left_alone():
    model = on_meta(lambda: from_zoo("vgg19_bn").build(zoo_spec(10), seed=0))
    names = [name for name, _ in convolutions(model)]
    assert len(names) == 16
    assert all(name.startswith("net.features.") for name in names)


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
