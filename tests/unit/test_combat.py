"""COMBAT's trigger, generator and alternated training."""

import math
from dataclasses import replace

import pytest
import torch

from backdoor_lab.attacks._views import Views
from backdoor_lab.attacks.combat import Combat
from backdoor_lab.attacks.combat.alternation import Alternation, Rules
from backdoor_lab.attacks.combat.frequency import blur, dct_low_pass, dct_matrix
from backdoor_lab.attacks.combat.unet import AddingUNet
from backdoor_lab.datasets import DataSpec
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe
from tests.tiny import Tiny

VIEWS = Views(2, 0.8, 10, 0.25, False)


def attached(size=32, **options):
    attack = Combat(0.5, 0, **{"width": 4, **options})
    spec = DataSpec("x", ("a", "b"), (3, size, size), (0.5,) * 3, (0.25,) * 3, 4, False)
    attack.attach(spec, Recipe(epochs=1, batch_size=2, lr=0.1), seed=0)
    return attack


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pixels():
    return torch.rand(6, 3, 32, 32, generator=generator())


@pytest.fixture
def turns():
    """An alternated training at its first batch; both descents by hand."""
    distortion = attached().distortion
    recipe = Recipe(epochs=4, batch_size=6, lr=0.01)
    rules = Rules(0, 1.0, 0.02, 0.8, VIEWS)
    module = Alternation(distortion, Tiny(), Tiny(), rules, recipe, 0)
    module.cpu_generator, module.generator = generator(1), generator(2)
    return module.train()


@pytest.mark.parametrize(("size", "kept"), [(32, 20), (64, 41), (224, 145)])
def test_low_pass_keeps_the_lowest_frequencies_alone(size, kept):
    noise = torch.rand(1, 2, size, size, generator=generator()) * 2 - 1
    matrix = dct_matrix(size)
    before = matrix @ noise @ matrix.T
    after = matrix @ dct_low_pass(noise, 0.65) @ matrix.T
    inside = torch.zeros(size, size, dtype=torch.bool)
    inside[:kept, :kept] = True
    assert torch.allclose(after[..., inside], before[..., inside], atol=1e-4)
    assert after[..., ~inside].abs().max() < 1e-4


def test_low_pass_is_idempotent_and_leaves_constants(pixels):
    once = dct_low_pass(pixels, 0.65)
    assert torch.allclose(dct_low_pass(once, 0.65), once, atol=1e-5)
    assert not torch.allclose(once, pixels, atol=0.1)
    assert torch.allclose(dct_low_pass(torch.full_like(pixels, 0.3), 0.65), torch.tensor(0.3))


def test_low_pass_of_signs_can_exceed_one(pixels):
    assert 1.6 < dct_low_pass((pixels - 0.5).sign(), 0.65).abs().max() < 2.4


@pytest.mark.parametrize(("width", "count"), [(64, 9_370_243)])
def test_generator_size(width, count):
    assert sum(weights.numel() for weights in AddingUNet(3, width).parameters()) == count


@pytest.mark.parametrize("size", [32, 64])
def test_generator_keeps_shape_and_range(size):
    noise = AddingUNet(3, 4)(torch.rand(2, 3, size, size) * 2 - 1)
    assert noise.shape == (2, 3, size, size)
    assert noise.abs().max() <= 1


def test_skips_carry_what_was_activated():
    net = AddingUNet(3, 4)
    seen = {}
    net.stem.register_forward_hook(lambda _, given, made: seen.update(stem=made))
    net.up[2].register_forward_hook(lambda _, given, made: seen.update(up=made))
    net.last.register_forward_pre_hook(lambda _, given: seen.update(last=given[0]))
    net(torch.rand(2, 3, 32, 32))
    skip = seen["last"] - seen["up"]
    assert torch.allclose(skip, seen["stem"].where(seen["stem"] > 0, 0.2 * seen["stem"]), atol=1e-5)


@pytest.mark.parametrize(("sigma", "centre"), [(1.0, 0.20), (0.5, 0.62), (0.2, 1.0), (0.1, 1.0)])
def test_blur_weights(sigma, centre):
    point = torch.zeros(1, 1, 5, 5)
    point[..., 2, 2] = 1
    blurred = blur(point, torch.tensor([sigma]))
    assert blurred[0, 0, 2, 2].item() == pytest.approx(centre, abs=0.01)
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)


def test_blur_mirrors_the_border_and_leaves_constants():
    assert torch.allclose(blur(torch.full((1, 1, 4, 4), 0.3), torch.ones(1)), torch.tensor(0.3))
    row = torch.tensor([1.0, 0, 0, 0]).expand(1, 1, 4, 4)
    side = torch.exp(torch.tensor(-0.5))
    weight = side / (1 + 2 * side)
    expected = torch.tensor([1 - 2 * weight, weight, 0, 0]).expand(1, 1, 4, 4)
    assert torch.allclose(blur(row, torch.ones(1)), expected, atol=1e-6)


def test_each_image_has_its_own_blur():
    pixels = torch.rand(1, 3, 32, 32, generator=generator()).expand(2, -1, -1, -1)
    first, second = attached(noise_rate=0).trigger(pixels)
    assert not torch.allclose(first, second, atol=1e-3)


def test_without_noise_and_blur_nothing_changes(pixels):
    same = attached(noise_rate=0, blur_at_test=False)
    assert torch.allclose(same.trigger(pixels), pixels, atol=1e-6)
    faint = attached(noise_rate=0, sigma_max=0.1)
    assert torch.allclose(faint.trigger(pixels), pixels, atol=1e-6)
    assert not torch.allclose(attached(noise_rate=0).trigger(pixels), pixels, atol=0.01)


def test_training_and_test_images_are_blurred_apart(pixels):
    attack = attached()
    assert not torch.equal(attack.trigger(pixels), attack.train_trigger(pixels))
    assert torch.equal(attack.trigger(pixels), attack.trigger(pixels))


def test_strength_of_the_noise():
    attack = attached(blur_at_test=False)
    pixels = torch.rand(2, 3, 32, 32, generator=generator()) * 0.2 + 0.4
    noise = dct_low_pass(attack.distortion.unet(pixels * 2 - 1), 0.65)
    assert torch.allclose(attack.trigger(pixels) - pixels, 0.04 * noise, atol=1e-5)
    strong = attached(noise_rate=5.0).trigger(pixels)
    assert 0 <= strong.min() < 0.01
    assert 0.99 < strong.max() <= 1 + 1e-6


@pytest.mark.parametrize("size", [16, 40])
def test_sizes_that_the_generator_cannot_take_are_refused(size):
    with pytest.raises(ConfigError, match="dataset.image_size"):
        attached(size)


def test_surrogate_sees_the_trigger_on_class_t_alone(turns, pixels):
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    seen = []
    turns.view = lambda views: seen.append(views) or views
    stamped = turns.distortion(pixels, turns.generator)
    turns.surrogate_loss(pixels, stamped, labels)
    assert torch.equal(seen[0][::2], stamped[::2])
    assert torch.equal(seen[0][1::2], pixels[1::2])
    turns.surrogate_loss(pixels, stamped, torch.ones_like(labels))
    assert torch.equal(seen[1], pixels)


def test_surrogate_sees_the_trigger_on_a_share_of_class_t(turns):
    seen = []
    turns.view = lambda views: seen.append(views) or views
    turns.rules = replace(turns.rules, share=0.3)
    images = torch.zeros(2000, 3, 8, 8)
    labels = torch.zeros(2000, dtype=torch.int64)
    turns.surrogate_loss(images, torch.ones_like(images), labels)
    stamped = seen[0].flatten(1).all(1).sum()
    assert abs(stamped - 600) < 4 * math.sqrt(2000 * 0.3 * 0.7)


def test_generator_loss_is_the_weighted_sum(turns, pixels):
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    turns.view = lambda views: views
    stamped = turns.distortion(pixels, turns.generator)
    turns.model.eval()
    fooled = -turns.model(stamped).log_softmax(1)[:, 0].mean()
    change = (2 * stamped - 2 * pixels).square().mean()
    unseen = -turns.clean(stamped).log_softmax(1)[range(6), labels].mean()
    expected = fooled + 0.02 * change + 0.8 * unseen
    assert torch.allclose(turns.generator_loss(pixels, stamped, labels), expected)


def test_each_step_moves_its_own_net_alone(turns, pixels):
    states = []

    def descend(loss, optimizer):
        before = states_of(turns)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        states.append([was != now for was, now in zip(before, states_of(turns), strict=True)])
        assert all(weights.grad is None for weights in turns.clean.parameters())

    optimizers = [config["optimizer"] for config in turns.configure_optimizers()]
    turns.optimizers, turns.descend = lambda: optimizers, descend
    turns.training_step((pixels, torch.tensor([0, 1, 0, 1, 0, 1])), 0)
    assert states == [[True, False, False], [False, True, False]]
    assert not turns.clean.training
    assert turns.model.training
    assert all(weights.requires_grad for weights in turns.model.parameters())
    assert all(
        weights.grad.abs().sum() > 0 for weights in turns.distortion.unet.last[-1:].parameters()
    )


def states_of(turns):
    """What stands in surrogate, generator and clean model, buffers included, as numbers."""
    nets = (turns.model, turns.distortion, turns.clean)
    return [sum(value.double().abs().sum().item() for value in net.state_dict().values())
            for net in nets]  # fmt: skip


@pytest.mark.parametrize(
    ("rate", "base", "share"), [(0.5, "target_class", 3 / 6), (1 / 30, "train_set", 2 / 6)]
)
def test_surrogate_is_poisoned_as_the_victim_will_be(shop, monkeypatch, rate, base, share):
    shares = []
    step = Alternation.training_step

    def noted(self, batch, number):
        shares.append(self.rules.share)
        return step(self, batch, number)

    monkeypatch.setattr(Alternation, "training_step", noted)
    attack = Combat(rate, 0, base, width=4, generator_epochs=1)
    attack.attach(shop.data.spec, shop.recipe, 0)
    attack.prepare(shop)
    assert shares == pytest.approx([share] * 3)


def test_its_training_is_nesterovs_and_its_rate_falls_twice(shop, monkeypatch):
    rates = []
    step = Alternation.training_step

    def noted(self, batch, number):
        groups = [optimizer.param_groups[0] for optimizer in self.optimizers()]
        assert all(group["nesterov"] and group["momentum"] == 0.9 for group in groups)
        assert all(group["weight_decay"] == 5e-4 for group in groups)
        rates.append(groups[1]["lr"])
        return step(self, batch, number)

    monkeypatch.setattr(Alternation, "training_step", noted)
    attack = Combat(0.5, 0, width=4, generator_epochs=4)
    attack.attach(shop.data.spec, shop.recipe, 0)
    before = attack.stamp(shop.train.images[:4])
    attack.prepare(shop)
    assert rates == pytest.approx([0.01] * 6 + [0.001] * 3 + [0.0001] * 3)
    assert not torch.equal(attack.stamp(shop.train.images[:4]), before)
    facts = attack.details["generator"]
    assert {"surrogate_fooled", "clean_accuracy", "psnr"} <= facts.keys()
    attack.prepare(shop)
    assert len(rates) == 12
