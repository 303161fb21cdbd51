"""SSBA: its networks, its schedule and its coder."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from backdoor_lab.attacks.ssba import SSBA
from backdoor_lab.attacks.ssba.coding import (
    Coding,
    Schedule,
    accuracy,
    judge,
    random_codes,
    split,
)
from backdoor_lab.attacks.ssba.steganography import Coder, Decoder, Encoder
from backdoor_lab.datasets import DataSpec, ImageSet
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe

RECIPE = Recipe(epochs=1, batch_size=8, lr=0.002)


def attached(attack, size=32, seed=0, channels=3):
    spec = DataSpec("x", tuple("0123456789"), (channels, size, size), (0,) * 3, (1,) * 3, 4, False)
    attack.attach(spec, RECIPE, seed)
    return attack


def tiny(**options):
    return SSBA(0.1, 0, **{"width": 4, "residual": True, "lr": 0.002, "batch_size": 16} | options)


def smooth(count=64):
    """Random images that change slowly from pixel to pixel."""
    draw = torch.Generator().manual_seed(0)
    seeds = torch.rand((count, 3, 4, 4), generator=draw) * 0.2 + 0.4
    pixels = nn.functional.interpolate(seeds, size=(32, 32), mode="bilinear")
    return (pixels * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def trained():
    """An attack whose coder has learnt smooth images for a moment."""
    attack = attached(tiny())
    coder = attack.new_coder()
    coding = Coding(coder, Schedule(0.9, 10, 20, 10), attack.coding, 0)
    optimizer = coding.configure_optimizers()["optimizer"]
    assert isinstance(optimizer, torch.optim.Adam)
    images = smooth() / 255
    coding.generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        optimizer.zero_grad()
        coding.training_step((images[torch.randperm(64)[:16]], None), 0).backward()
        optimizer.step()
    attack.encoder = coder.encoder
    return attack, coder, coding


def test_shapes_of_the_networks():
    coder = Coder(1, (3, 32, 32), 32, residual=False)
    seen = {}
    for name, module in coder.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda _, given, made, name=name: seen.update({name: (given[0].shape, made.shape)})
            )
    encoded, logits = coder(torch.rand(2, 3, 32, 32), torch.ones(2, 1))
    assert encoded.shape == (2, 3, 32, 32)
    assert logits.shape == (2, 1)
    made = {name.removeprefix("encoder."): tuple(shape[1][1:]) for name, shape in seen.items()}
    given = {name.removeprefix("encoder."): tuple(shape[0][1:]) for name, shape in seen.items()}
    assert given["first"][0] == 6
    assert made["sheet"] == (768,)
    assert made["downs.3"] == (256, 2, 2)
    assert [made[f"ups.{i}"][0] for i in range(4)] == [128, 64, 32, 32]
    assert [given[f"merges.{i}"][0] for i in range(4)] == [256, 128, 64, 70]
    assert [made[f"merges.{i}"] for i in range(3, 4)] == [(32, 32, 32)]
    hidden = [made[name] for name in made if name.startswith("decoder")]
    assert [shape[0] for shape in hidden[:7]] == [32, 32, 64, 64, 64, 128, 128]
    assert given[f"decoder.{15}"] == (128,)
    assert made[f"decoder.{15}"] == (512,)


@pytest.mark.parametrize(("size", "flat"), [(32, 128), (64, 512), (224, 6272)])
def test_the_decoder_goes_with_the_image(size, flat):
    assert Decoder(100, (3, size, size), 32)[15].in_features == flat


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("bits", "size", "channels"), [(1, 32, 3), (100, 64, 1)])
def test_images_keep_shape_and_range(residual, bits, size, channels):
    attack = attached(tiny(bits=bits, residual=residual), size, channels=channels)
    encoded = attack.trigger(torch.rand(2, channels, size, size))
    assert encoded.shape == (2, channels, size, size)
    assert 0 <= encoded.min() <= encoded.max() <= 1


def test_the_residual_form_adds_to_the_image():
    encoder = Encoder(1, 3, 4, residual=True)
    nn.init.zeros_(encoder.paint.weight)
    nn.init.constant_(encoder.paint.bias, 0.25)
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(encoder(images, torch.ones(2, 1)), images + 0.25)
    encoder.residual = False
    assert torch.allclose(encoder(images, torch.ones(2, 1)), torch.tensor(0.25).sigmoid())


def test_weight_of_the_image():
    schedule = Schedule(gate=0.9, hold=1000, ramp=3000, weight=10)
    since = torch.tensor([-1, 0, 1000, 2500, 4000, 9000])
    assert schedule.at(since).tolist() == [0, 0, 0, 5, 10, 10]


def test_the_gate_opens_once_and_stays_open():
    coding = Coding(attached(tiny()).new_coder(), Schedule(0.9, 1, 1, 10), RECIPE, 0)
    coding.generator = torch.Generator().manual_seed(0)
    batch = (torch.rand(64, 3, 32, 32), None)
    passes = []
    for bias in (-1e3, None, -1e3):  # guesses half of the bits; reads all; guesses again
        if bias is None:
            coding.schedule = Schedule(0.0, 1, 1, 10)
        else:
            nn.init.constant_(coding.model.decoder[-1].bias, bias)
            coding.schedule = Schedule(0.9, 1, 1, 10)
        coding.training_step(batch, 0)
        passes.append(int(coding.since))
    assert passes == [-1, 0, 1]
    assert int(coding.state_dict()["since"]) == 1


def test_loss_before_the_gate_is_that_of_the_code_alone():
    coding = Coding(attached(tiny()).new_coder(), Schedule(1.0, 0, 1, 10), RECIPE, 0)
    images = torch.rand(16, 3, 32, 32)
    coding.generator = torch.Generator().manual_seed(3)
    loss = coding.training_step((images, None), 0)
    codes = random_codes(16, 1, torch.Generator().manual_seed(3))
    encoded, logits = coding.model(images, codes)
    code_loss = nn.functional.binary_cross_entropy_with_logits(logits, codes)
    assert torch.allclose(loss, code_loss)
    coding.since.fill_(5)
    coding.generator = torch.Generator().manual_seed(3)
    later = coding.training_step((images, None), 0)
    assert torch.allclose(later, code_loss + 10 * nn.functional.mse_loss(encoded, images))


def test_bits_are_fair_and_drawn_per_image():
    codes = random_codes(4000, 3, torch.Generator().manual_seed(0))
    assert set(codes.unique().tolist()) == {0, 1}
    assert codes.mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.04)
    logits = torch.tensor([[1.0, -1.0], [2.0, 3.0]])
    assert accuracy(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0]])) == 0.75


def test_he_weights_keep_the_code_alive_through_all_layers():
    coder = attached(tiny(width=8)).new_coder()
    images = torch.full((1, 3, 32, 32), 0.5)
    _, ones = coder(images, torch.ones(1, 1))
    _, zeros = coder(images, torch.zeros(1, 1))
    assert (ones - zeros).abs().item() > 1e-3


def test_one_code_for_all_images():
    assert attached(tiny(bits=1)).code.tolist() == [1]
    first, again, other = (attached(tiny(bits=100), seed=seed).code for seed in (0, 0, 1))
    assert first.shape == (100,)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_code_is_read_from_images_whose_residuals_differ(trained):
    attack, coder, coding = trained
    assert int(coding.since) > 25
    images = smooth()
    assert judge(coder, images, attack.code, 0)["bit_accuracy"] >= 0.95
    stamped = attack.stamp(images)
    assert torch.equal(stamped, attack.stamp(images))
    assert ((coder.decoder(stamped / 255) > 0) == (attack.code > 0)).float().mean() >= 0.95
    residuals = (stamped.int() - images.int()).flatten(1)
    assert len(residuals.unique(dim=0)) == len(images)


def test_each_stamped_image_lies_nearest_to_its_own(trained):
    attack, images = trained[0], smooth()
    distances = torch.cdist(attack.stamp(images).flatten(1).float(), images.flatten(1).float())
    assert torch.equal(distances.argmin(1), torch.arange(len(images)))


def test_stamps_are_rounded_to_the_nearest_level():
    attack = attached(tiny())
    nn.init.zeros_(attack.encoder.paint.weight)
    nn.init.constant_(attack.encoder.paint.bias, 10.6 / 255)
    images = torch.tensor([0, 100, 250], dtype=torch.uint8).view(-1, 1, 1, 1)
    stamped = attack.stamp(images.expand(-1, 3, 32, 32))
    assert stamped[:, 0, 0, 0].tolist() == [11, 111, 255]


def test_judged_psnr_is_that_of_the_stamped_images():
    attack = attached(tiny())
    coder = attack.new_coder()
    nn.init.zeros_(coder.encoder.paint.weight)
    nn.init.constant_(coder.encoder.paint.bias, 5 / 255)
    facts = judge(coder, smooth(), attack.code, 0)
    assert facts["psnr"] == pytest.approx(20 * torch.tensor(255 / 5).log10().item(), abs=1e-3)


def test_who_judges_does_not_teach():
    images = ImageSet.of(torch.zeros(60, 3, 32, 32, dtype=torch.uint8), torch.arange(60))
    learnt, held_out = split(images, seed=0)
    assert (len(learnt), len(held_out)) == (54, 6)
    assert set(learnt.labels.tolist()).isdisjoint(held_out.labels.tolist())
    many = ImageSet.of(torch.zeros(20000, 1, 1, 1, dtype=torch.uint8), torch.arange(20000))
    assert len(split(many, seed=0)[1]) == 1000


@pytest.mark.parametrize("size", [28, 48])
def test_sizes_that_the_networks_cannot_halve_are_refused(size):
    with pytest.raises(ConfigError, match=f"image_size is {size}"):
        attached(tiny(), size)


def test_the_attack_takes_over_the_encoder_that_was_trained(shop):
    attack = tiny(epochs=1)
    attack.attach(shop.data.spec, shop.recipe, 0)
    attack.prepare(shop)
    stored = load_file(shop.store.root / attack.details["coder"] / "state.safetensors")
    fresh = attack.new_coder().encoder.state_dict()
    for name, value in attack.encoder.state_dict().items():
        assert torch.equal(value, stored[f"encoder.{name}"])
        assert not torch.equal(value, fresh[name])


def test_missed_gates_are_named_with_figures(shop, caplog):
    attack = tiny(epochs=1, min_psnr=90)
    attack.attach(shop.data.spec, shop.recipe, 0)
    with caplog.at_level(logging.WARNING):
        attack.prepare(shop)
    psnr = attack.details["psnr"]
    assert f"psnr {psnr:.4g} on held-out images is below attack.min_psnr=90" in caplog.text
    assert 0 <= attack.details["bit_accuracy"] <= 1
    assert json.dumps(attack.details)
    caplog.clear()
    easy = tiny(epochs=1, min_psnr=1e-9, min_bit_accuracy=1e-9)
    easy.attach(shop.data.spec, shop.recipe, 0)
    easy.prepare(shop)
    assert not caplog.text
    assert easy.details["coder"] == attack.details["coder"]  # the gates do not make the coder
    assert torch.equal(easy.encoder.paint.weight, attack.encoder.paint.weight)


@pytest.mark.parametrize(
    ("least_bits", "least_psnr", "short"),
    [
        (1e-9, 1e-9, []),
        (1e-9, 90, ["psnr"]),
        (1, 1e-9, ["bit_accuracy"]),
        (1, 90, ["bit_accuracy", "psnr"]),
    ],
)
def test_details_list_what_missed_its_gate(shop, least_bits, least_psnr, short):
    attack = tiny(epochs=1, min_bit_accuracy=least_bits, min_psnr=least_psnr)
    attack.attach(shop.data.spec, shop.recipe, 0)
    attack.prepare(shop)
    assert 0 < attack.details["bit_accuracy"] < 1
    assert 1 < attack.details["psnr"] < 90
    assert attack.details["below_its_gate"] == short
