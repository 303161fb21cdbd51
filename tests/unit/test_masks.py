"""The encoder-decoder of input-aware triggers, its masks, and the partners of a batch."""

import pytest
import torch

from backdoor_lab.attacks.input_aware import InputAware
from backdoor_lab.attacks.input_aware.masks import MaskTraining, distance, diversity_loss
from backdoor_lab.attacks.input_aware.networks import EncoderDecoder, squash, threshold
from backdoor_lab.training import CropFlip, Recipe


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def attack(spec):
    made = InputAware(0.1, 3, width=4, count_mask_epochs=False)
    made.attach(spec, Recipe(epochs=1, batch_size=20, lr=0.01), seed=0)
    return made


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameter_counts(spec):
    assert count(EncoderDecoder(spec, 3, 32, False)) == 723273
    assert count(EncoderDecoder(spec, 1, 32, False)) == 722691


@pytest.mark.parametrize("size", [32, 64])
def test_generators_keep_the_size_and_range(spec, size):
    pictures = EncoderDecoder(spec, 1, 4, False)(torch.rand(2, 3, size, size))
    assert pictures.shape == (2, 1, size, size)
    assert 0 < pictures.min() < pictures.max() < 1


def test_double_tanh_confines_the_pictures(spec):
    model = EncoderDecoder(spec, 3, 4, True)
    with torch.no_grad():
        model.last[-1].weight.fill_(100)
    pictures = model(torch.rand(2, 3, 32, 32))
    assert pictures.min().item() == pytest.approx(0.1192, abs=1e-3)
    assert pictures.max().item() == pytest.approx(0.8808, abs=1e-3)
    model.double_tanh = False
    assert model(torch.rand(2, 3, 32, 32)).max() > 0.99


def test_squash_and_threshold():
    assert squash(torch.tensor([-50.0, 0, 50])).tolist() == pytest.approx([0, 0.5, 1])
    ends = threshold(torch.tensor([0, 0.5, 1, 0.119203, 0.880797])).tolist()
    assert ends == pytest.approx([0, 0.5, 1, 3e-7, 1], abs=3e-7)
    assert threshold(torch.tensor(0.6)) > 0.98


def test_distances():
    first, second = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    second[1] = 3
    assert distance(first, second).tolist() == pytest.approx([1, 3])
    assert diversity_loss(first, second, first, 2 * second).item() == pytest.approx(0.5)


def test_equal_pictures_have_a_finite_gradient():
    made = torch.rand(2, 1, 4, 4, requires_grad=True)
    diversity_loss(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4), made, made.detach()).backward()
    assert made.grad.isfinite().all()


def mask_loss(attack, weights):
    training = MaskTraining(attack.masks.eval(), attack.recipe, None, 0)
    training.density, training.weights = 0.032, weights
    images, others = torch.rand(2, 2, 3, 32, 32)
    training.others = iter([(others, None)])
    loss = training.training_step((images, None), 0)
    return loss, images, others, threshold(attack.masks(images)), threshold(attack.masks(others))


def test_the_density_is_penalised_pixel_by_pixel(attack):
    loss, _, _, masks, _ = mask_loss(attack, (0, 100))
    assert loss.item() == pytest.approx(100 * (masks - 0.032).clamp(min=0).mean().item())


def test_mask_diversity_is_taken_of_normalised_images(attack):
    loss, images, others, masks, other_masks = mask_loss(attack, (2, 0))
    expected = 2 * diversity_loss(images / 0.25, others / 0.25, masks, other_masks)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_partners_come_in_another_order_each_epoch(attack, shop):
    attack.augment = CropFlip(0, False)
    attack.pair(shop.engine, shop.train)
    own = shop.engine.batches(shop.train, 20, seed=attack.seed, augment=attack.augment)
    (images, _), (others, _) = next(iter(own)), next(iter(attack.partners))
    assert images.shape == others.shape
    assert not torch.equal(images, others)
    attack.partners.set_epoch(1)
    assert not torch.equal(next(iter(attack.partners))[0], others)


def test_pictures_are_float_under_mixed_precision_and_close_to_those_without(spec):
    model, images = EncoderDecoder(spec, 3, 4, False), torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        for _ in range(60):
            model(torch.rand(4, 3, 32, 32))  # for statistics, so that pictures have contrast
    plain = model.eval()(images)
    assert plain.std() > 0.05
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(images)
    assert mixed.dtype == torch.float32
    assert torch.allclose(mixed, plain, atol=0.05)
    assert not torch.equal(mixed, plain)  # the layers before the last did run in bf16
    assert (mixed != mixed.bfloat16()).float().mean() > 0.9  # the last one did not
    (mixed - plain.detach() - 1).square().mean().backward()
    weights = [layer.weight for layer in (model.layers[0], model.last[0])]
    assert all(weight.grad.isfinite().all() and weight.grad.any() for weight in weights)
