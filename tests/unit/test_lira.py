"""LIRA: its generators, its two stages, and the bound of its noise."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from backdoor_lab.attacks.lira import LIRA
from backdoor_lab.attacks.lira.networks import Autoencoder, ConcatUNet, Perturb
from backdoor_lab.attacks.lira.stage1 import Together, mixed_loss
from backdoor_lab.datasets import DataSpec
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe
from tests.tiny import tiny_aux

RECIPE = Recipe(epochs=1, batch_size=20, lr=0.01)


@pytest.fixture
def lira(spec):
    def build(**options):
        attack = LIRA(target=0, **{"stage1_epochs": 2, "generator_lr": 1e-3} | options)
        attack.attach(spec, RECIPE, seed=0)
        return attack

    return build


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("network", "count"), [(Autoencoder, 346_659), (ConcatUNet, 7_788_681)])
def test_parameter_counts_and_shapes(network, count):
    net = network(3)
    assert sum(parameter.numel() for parameter in net.parameters()) == count
    noise = net(torch.rand(2, 3, 16, 48))
    assert noise.shape == (2, 3, 16, 48)
    assert noise.abs().max() <= 1


def test_noise_is_bounded_in_units_of_the_normalised_images():
    spec = DataSpec("x", ("a",), (3, 4, 4), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), 1, False)
    one = Perturb(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.Tanh()), spec, 0.1)
    torch.nn.init.constant_(one.net[0].bias, 99.0)  # noise of 1 everywhere
    images = torch.full((1, 3, 4, 4), 0.5)
    change = (one(images) - images) / torch.tensor(spec.std).view(1, 3, 1, 1)
    assert torch.allclose(change, torch.tensor(0.1), atol=1e-5)
    assert one(torch.ones(1, 3, 4, 4)).max() == 1


def test_generator_sees_normalised_images():
    spec = DataSpec("x", ("a",), (3, 4, 4), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), 1, False)
    one = Perturb(torch.nn.Identity(), spec, 0.1)
    images = torch.rand(2, 3, 4, 4) * 0.2 + 0.4
    mean = torch.tensor(spec.mean).view(1, 3, 1, 1)
    assert torch.allclose(one(images), images + 0.1 * (images - mean))


def test_alpha_one_trains_on_clean_images_only(model):
    images, labels = torch.rand(8, 3, 32, 32), torch.arange(8)
    loss = mixed_loss(model, images, labels, torch.rand_like(images), labels * 0, 1.0)
    assert torch.allclose(loss, F.cross_entropy(model(images), labels))
    half = mixed_loss(model, images, labels, images, labels * 0, 0.25)
    expected = F.cross_entropy(model(images), labels) * 0.25
    expected = expected + F.cross_entropy(model(images), labels * 0) * 0.75
    assert torch.allclose(half, expected)


def test_stage_one_trains_both_and_renews_the_old_generator_between_epochs(lira, model, shop):
    attack = lira()
    together = Together(attack, attack.new_noise(), model)
    start, seen = state(together.old), []
    step = together.training_step

    def training_step(batch, batch_idx):
        seen.append((state(together.old), state(together.noise)))
        return step(batch, batch_idx)

    together.training_step = training_step
    before = state(model)
    shop.engine.fit(together, shop.train, "stage 1")
    assert len(seen) == 6  # two epochs of three batches
    assert all(same(old, start) for old, _ in seen[:3])
    second_epoch = seen[3][1]
    assert not same(second_epoch, start)
    assert all(same(old, second_epoch) for old, _ in seen[3:])
    assert not same(state(model), before)


@pytest.fixture
def turn(lira, engine, tiny):
    """One plain descent of both nets on one batch: before, after, and the batch."""
    attack = lira(eps=1.0, alpha=0.3, stage1_epochs=1, stage1_lr=0.1)
    attack.views = lambda images, *_: images
    noise = Perturb(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh()), attack.spec, attack.eps)
    together = Together(attack, noise, tiny)
    together.noise_recipe = replace(together.recipe, lr=0.2)
    data = tiny_aux(20).images
    before = deepcopy(tiny).train(), deepcopy(noise)
    engine.fit(together, data, "stage 1")
    return before, (tiny, noise), (data.images.float() / 255, data.labels)


def descended(net, loss, lr):
    """Where one step down the gradient of `loss` takes the weights of `net`."""
    slopes = torch.autograd.grad(loss, list(net.parameters()))
    assert all(slope.abs().max() > 1e-4 for slope in slopes[-2:])
    return [weight - lr * slope for weight, slope in zip(net.parameters(), slopes, strict=True)]


def test_a_step_of_the_generator_wants_the_target_of_all_images(turn):
    (model, noise), (_, after), (images, labels) = turn
    loss = F.cross_entropy(model(noise(images)), labels * 0)
    for weight, wanted in zip(after.parameters(), descended(noise, loss, 0.2), strict=True):
        assert torch.allclose(weight, wanted, atol=1e-6)


def test_a_step_of_the_classifier_weighs_clean_images_and_the_old_generators(turn):
    (model, noise), (after, _), (images, labels) = turn
    kept, taken = model(torch.cat([images, noise(images)])).chunk(2)
    loss = 0.3 * F.cross_entropy(kept, labels) + 0.7 * F.cross_entropy(taken, labels * 0)
    for weight, wanted in zip(after.parameters(), descended(model, loss, 0.1), strict=True):
        assert torch.allclose(weight, wanted, atol=1e-6)


def test_generator_step_leaves_the_classifier_alone(lira, model, shop):
    attack = lira(alpha=1.0, stage1_epochs=1, stage1_lr=1e-12)
    together = Together(attack, attack.new_noise(), model)
    before = [parameter.clone() for parameter in model.parameters()]
    shop.engine.fit(together, shop.train, "stage 1")
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.allclose(parameter, old, atol=1e-7)


def test_stage_two_starts_from_stage_one_and_keeps_the_generator(lira, model, shop, monkeypatch):
    attack = lira()
    attack.prepare(shop)
    noise, first = state(attack.noise), attack.stage1
    starts = []

    def learn(self, model, *_):
        starts.append(same(first, state(model)))

    with monkeypatch.context() as patch:
        patch.setattr("backdoor_lab.attacks._base.Attack.learn", learn)
        attack.learn(model, shop.train, shop, None)
    assert starts == [True]
    attack.train_victim(model, shop)
    assert same(noise, state(attack.noise))
    assert not same(first, state(model))
    assert set(attack.details["stage1"]) >= {"accuracy", "success"}


def test_the_attack_takes_over_the_generator_of_stage_one(lira, shop):
    learnt, found = lira(), lira()
    fresh = state(learnt.noise)
    for attack in (learnt, found):
        attack.prepare(shop)
        stored = load_file(shop.store.root / attack.details["generator"] / "state.safetensors")
        noise = {f"noise.{name}": value for name, value in attack.noise.state_dict().items()}
        assert same(noise, stored)
    assert not same(fresh, state(learnt.noise))


def test_success_of_stage_one_is_that_of_the_generator_it_trained(lira, shop, monkeypatch):
    noises = []
    stamp = LIRA.stamp

    def noted(self, images):
        noises.append(state(self.noise))
        return stamp(self, images)

    monkeypatch.setattr(LIRA, "stamp", noted)
    attack = lira(stage1_epochs=1)
    attack.prepare(shop)
    assert len(noises) == 1
    assert same(noises[0], state(attack.noise))


def test_the_generator_stays_in_eval_mode(lira):
    attack = lira().train()
    assert attack.training
    assert not any(part.training for part in attack.noise.modules())


def test_trigger_stays_within_eps_in_eight_bits(lira, images, spec):
    attack = lira(eps=0.2)
    change = (attack.stamp(images.images).int() - images.images.int()).abs().max()
    assert 0 < change <= 0.2 * spec.std[0] * 255 + 0.5


@pytest.mark.parametrize(("network", "size"), [("autoencoder", 40), ("unet", 36)])
def test_sides_that_do_not_divide_are_refused(network, size):
    with pytest.raises(ConfigError, match=f"attack.network={network}"):
        LIRA(0, network=network).check((3, size, 32), 10)


def test_noise_that_eight_bits_lose_is_refused(lira):
    with pytest.raises(ConfigError, match=r"attack.eps=0.001"):
        lira(eps=0.001)


def test_a_step_with_all_to_all_wants_the_next_class(lira, monkeypatch):
    attack = lira(all_to_all=True)
    seen = {}

    def loss(model, clean, labels, stamped, wanted, alpha):
        seen.update(clean=clean, labels=labels, stamped=stamped, wanted=wanted)
        return torch.zeros(())

    monkeypatch.setattr("backdoor_lab.attacks.lira.lira.mixed_loss", loss)
    attack.model = torch.nn.Identity()
    attack.on_train_epoch_start()
    labels = torch.arange(10)
    attack.training_step((torch.rand(10, 3, 32, 32), labels), 0)
    assert torch.equal(seen["labels"], labels)
    assert seen["wanted"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert (seen["stamped"] - attack.trigger(seen["clean"])).abs().max() <= 0.5 / 255 + 1e-6
    assert attack.counted(labels).all()
    assert lira().counted(labels).tolist() == [False] + [True] * 9


def test_stage_one_wants_the_next_class_too(lira, model):
    together = Together(lira(all_to_all=True), lira().new_noise(), model)
    assert together.relabel(torch.arange(10)).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
