from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.distributions import Normal, kl_divergence

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses._base import batch_norms
from backdoor_lab.defenses.bnp import BNP, Moments, divergence
from backdoor_lab.training import Engine
from tests.tiny import SPEC, tiny_aux

STILL = replace(SPEC, padding=0, flip=False)


class Wide(nn.Module):
    """Wide enough for a channel to lie more than three deviations off."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24)
        self.conv2, self.bn2 = nn.Conv2d(24, 24, 3), nn.BatchNorm2d(24)
        self.head = nn.Linear(24, 2)

    def forward(self, images):
        maps = self.bn1(self.conv1(images)).relu()
        return self.head(self.bn2(self.conv2(maps)).relu().mean((2, 3)))


@pytest.fixture
def model():
    """Its running statistics are those of the auxiliary images, roughly."""
    torch.manual_seed(0)
    model = Wide().train()
    for _ in range(60):
        model(tiny_aux(30).data.images.float() / 255)
    return model.eval()


def defense(u=3.0, prune="gamma", spec=STILL, batch=512):
    bnp = BNP(u, prune)
    engine = Engine(accelerator="cpu", precision="32-true", progress=False, eval_batch_size=batch)
    bnp.attach(engine, spec, 3)
    return bnp


def entered(model, images):
    """What enters each BatchNorm, in eval mode."""
    seen = {}
    handles = [
        norm.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0].double()}))
        for name, norm in batch_norms(model).items()
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return seen


def test_divergence_is_that_of_normal_distributions():
    torch.manual_seed(0)
    mean, var, other_mean, other_var = (torch.rand(4, 50, dtype=torch.float64) + 0.1).unbind()
    expected = kl_divergence(Normal(mean, var.sqrt()), Normal(other_mean, other_var.sqrt()))
    torch.testing.assert_close(divergence(mean, var, other_mean, other_var), expected)
    one = torch.ones(1)
    assert divergence(one, one, one * 2, one * 2).item() == pytest.approx(0.34657, abs=1e-5)


def test_moments_do_not_depend_on_the_batches():
    torch.manual_seed(0)
    maps = torch.randn(23, 5, 4, 3) * torch.tensor([1e-3, 1, 1, 1, 9]).view(5, 1, 1) + 100
    moments = Moments()
    for part in maps.split([10, 10, 2, 1]):
        moments.add(part)
    mean, var = moments.result()
    torch.testing.assert_close(mean, maps.double().mean((0, 2, 3)))
    torch.testing.assert_close(var, maps.double().var((0, 2, 3)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("batch", [512, 8, 29])  # the last one leaves a single image
def test_statistics_are_those_of_all_images(model, batch):
    data = tiny_aux(30).data
    found = defense(batch=batch).statistics(model, data)
    for name, maps in entered(model, data.images.float() / 255).items():
        mean, var = found[name]
        torch.testing.assert_close(mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(var, maps.var((0, 2, 3)), rtol=1e-4, atol=1e-6)


def test_images_are_augmented_as_in_training(model):
    data = tiny_aux(30).data
    still, moved = (defense(spec=spec).statistics(model, data) for spec in (STILL, SPEC))
    assert not torch.allclose(still["bn1"][0], moved["bn1"][0])


@pytest.mark.parametrize("u", [0.0, 1.0, 2.0, 3.0])
def test_pruned_are_those_of_the_authors_formula(model, u):
    with torch.no_grad():
        for norm in (model.bn1, model.bn2):
            norm.running_mean += 0.2 * torch.randn(24)
            norm.running_var *= torch.rand(24) + 0.5
            norm.running_mean[4] += 3
            norm.eps = 1e-12
    aux = tiny_aux(30)
    expected = {}
    for name, maps in entered(model, aux.data.images.float() / 255).items():
        norm = batch_norms(model)[name]
        var1, mean1 = torch.var_mean(maps, (0, 2, 3))
        var2, mean2 = norm.running_var.double(), norm.running_mean.double()
        far = (var2.sqrt() / var1.sqrt()).log() + (var1 + (mean1 - mean2) ** 2) / (2 * var2) - 0.5
        expected[name] = far > far.mean() + u * far.std()
    purified = defense(u).purify(deepcopy(model), aux)
    for name, norm in batch_norms(purified).items():
        assert torch.equal(norm.weight == 0, expected[name])
        assert expected[name][4]


@pytest.mark.parametrize("prune", ["gamma", "channel"])
def test_a_channel_that_training_saw_otherwise_is_pruned(model, prune):
    with torch.no_grad():
        model.bn1.bias.fill_(0.5)
        model.bn1.running_mean[7] += 2
    before = deepcopy(model.state_dict())
    bnp = defense(prune=prune)
    purified = bnp.purify(model, tiny_aux(30))
    assert (purified.bn1.weight == 0).nonzero().flatten().tolist() == [7]
    assert (purified.bn1.bias == 0).nonzero().flatten().tolist() == [7] * (prune == "channel")
    assert bnp.details["per_layer"]["bn1"] == 1
    assert bnp.details["pruned"] == sum(bnp.details["per_layer"].values())
    gone = {f"bn{layer}.{entry}" for layer in (1, 2) for entry in ("weight", "bias")}
    kept = before.keys() - gone
    assert all(torch.equal(purified.state_dict()[name], before[name]) for name in kept)
    assert not any(module.training for module in purified.modules())


def test_a_channel_that_never_varies_is_no_outlier(model):
    with torch.no_grad():
        model.conv1.weight[3], model.conv1.bias[3] = 0, 0
        model.bn1.running_mean[3], model.bn1.running_var[3] = 0, 0
    purified = defense().purify(model, tiny_aux(30))
    assert purified.bn1.weight[3] != 0


def test_labels_are_not_read(model):
    aux = tiny_aux(30)
    first = defense(1.0).purify(deepcopy(model), aux)
    bare = AuxiliarySet("seen", replace(aux.data, labels=torch.zeros(30).long()), False)
    second = defense(1.0).purify(model, bare)
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_values_out_of_range_are_refused():
    with pytest.raises(ValidationError, match="prune"):
        BNP(u=3.0, prune="beta")
    with pytest.raises(ValidationError, match=r"\nu\n"):
        BNP(u=-1.0, prune="gamma")
