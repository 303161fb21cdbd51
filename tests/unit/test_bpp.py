"""BppAttack: grey levels, dithering, negatives, and what a batch is made of."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from backdoor_lab.attacks.bpp import Bpp, dither, quantise
from backdoor_lab.datasets import in_eight_bits
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe

ALL_LEVELS = torch.arange(256).expand(2, 3, 1, 256)


@pytest.fixture
def attached(spec):
    def build(**options):
        attack = Bpp(**{"poison_rate": 0.1, "target": 0, "rotation_probability": 0} | options)
        attack.attach(spec, Recipe(epochs=1, batch_size=128, lr=0.1), seed=0)
        attack.on_train_epoch_start()
        return attack

    return build


def floyd_steinberg(image, levels):
    """One channel, pixel by pixel, as in the textbook; in units of its levels."""
    image = image * (levels - 1)
    height, width = image.shape
    for y in range(height):
        for x in range(width):
            rounded = image[y, x].round()
            error = image[y, x] - rounded
            image[y, x] = rounded
            for dy, dx, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if y + dy < height and 0 <= x + dx < width:
                    image[y + dy, x + dx] += error * share / 16
    return in_eight_bits(image / (levels - 1))


def test_eight_levels_and_their_truncation(attached):
    stamped = attached().stamp(ALL_LEVELS.to(torch.uint8))
    assert stamped.unique().tolist() == [0, 36, 72, 109, 145, 182, 218, 255]
    assert stamped[..., 0].unique() == 0
    assert stamped[..., 255].unique() == 255


def test_quantisation_is_idempotent_and_bounded():
    images = ALL_LEVELS / 255
    once = quantise(images, 8)
    assert torch.allclose(quantise(once, 8), once)
    residue = (once - images).abs() * 255
    assert residue.max().item() == pytest.approx(18.1, abs=0.1)
    assert residue.mean().item() == pytest.approx(9.1, abs=0.1)


@pytest.mark.parametrize("level", [20, 100, 128, 240])
def test_dithering_keeps_the_mean(level):
    image = torch.full((1, 1, 64, 64), level / 255)
    dithered = dither(image, 8)
    assert len(dithered.unique()) == 2
    assert torch.equal(dithered, in_eight_bits(dithered))  # whole grey levels, as the authors'
    assert dithered.mean().item() * 255 == pytest.approx(level, abs=1)


@pytest.mark.parametrize(("height", "width"), [(7, 10), (10, 7), (1, 5), (5, 1), (32, 32)])
def test_dithering_is_that_of_the_textbook_bit_for_bit(height, width):
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, height, width), generator=draw) / 255
    expected = [floyd_steinberg(channel, 8) for channel in images.flatten(0, 1)]
    assert torch.equal(dither(images, 8).flatten(0, 1), torch.stack(expected))


def test_nothing_can_be_dithered():
    assert dither(torch.empty(0, 3, 8, 8), 8).shape == (0, 3, 8, 8)


class Counted(TorchDispatchMode):
    """Counts the operations that PyTorch issues."""

    count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        self.count += 1
        return operation(*arguments, **(keywords or {}))


def test_a_step_with_dithering_issues_few_operations(attached, step):
    attack = attached(dithering=True)
    with Counted() as counted:
        views, _ = step(attack, torch.rand(128, 3, 32, 32), torch.arange(128) % 10)
    assert len(views) == 128
    assert counted.count < 800  # six for each of the 94 steps that the errors' way makes


def test_counts(attached):
    cpu_generator = torch.Generator().manual_seed(0)
    assert attached().counts(128, cpu_generator) == (12, 12)
    assert attached(poison_rate=0.2, negative_rate=0.2).counts(80, cpu_generator) == (16, 16)
    assert attached(poison_rate=0.8, negative_rate=0.2).counts(10, cpu_generator) == (8, 2)
    assert attached(negative_rate=0).counts(128, cpu_generator) == (12, 0)


def test_small_rates_act_on_some_batches_each_by_a_coin_of_its_own(attached):
    cpu_generator = torch.Generator().manual_seed(0)
    attack = attached(poison_rate=0.005, negative_rate=0.005)
    drawn = [attack.counts(128, cpu_generator) for _ in range(300)]
    assert set(drawn) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    with pytest.raises(
        ConfigError, match=r"attack\.negative_rate=0\.2 .* attack\.poison_rate=0\.9"
    ):
        attached(poison_rate=0.9, negative_rate=0.2)


def test_negatives_bear_the_residue_of_the_next_image(attached):
    attack = attached()
    images = torch.full((3, 3, 32, 32), 0.5)
    images[1], images[2] = 1 / 7, 0.49
    crossed = attack.cross(images)
    assert torch.allclose(crossed[0], images[0])  # the next has a level of its own
    assert torch.allclose(crossed[1], images[1] + 3 / 7 - 0.49)
    assert torch.allclose(crossed[2], images[2] + 4 / 7 - 0.5)
    bright = torch.tensor([1.0, 0.5]).view(2, 1, 1, 1)
    assert attack.cross(bright).max() == 1  # not beyond white


def test_a_step_poisons_some_crosses_some_and_keeps_the_rest(attached, step):
    attack = attached(crop_padding=0, target=3)
    images, labels = torch.rand(128, 3, 32, 32), torch.arange(128) % 10
    views, wanted = step(attack, images, labels)
    assert torch.equal(views[:12], attack.trigger(images)[:12])
    assert torch.equal(views[12:24], attack.cross(images)[12:24])
    assert torch.equal(views[24:], images[24:])
    assert wanted[:12].tolist() == [3] * 12
    assert torch.equal(wanted[12:], labels[12:])


def test_a_step_with_all_to_all_wants_the_next_class(attached, step):
    attack = attached(all_to_all=True)
    labels = torch.arange(128) % 10
    _, wanted = step(attack, torch.rand(128, 3, 32, 32), labels)
    assert wanted[:12].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert torch.equal(wanted[12:], labels[12:])
    assert attack.counted(labels).all()
    assert attached().counted(labels).sum() == 128 - 13


@pytest.mark.parametrize("levels", [1, 129])
def test_levels_that_are_no_trigger_are_refused(attached, levels):
    with pytest.raises(ConfigError, match=f"attack.levels={levels}"):
        attached(levels=levels)
