"""Triggers of single images, and who is poisoned, against known numbers."""

import pytest
import torch

from backdoor_lab.attacks.badnets import PATTERNS, BadNets, resized_canvas
from backdoor_lab.attacks.blended import Blended, blend
from backdoor_lab.attacks.sig import SIG
from backdoor_lab.datasets import DataSpec, truncate
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe


def attached(attack, size=32, num_classes=10):
    classes = tuple(str(number) for number in range(num_classes))
    spec = DataSpec("x", classes, (3, size, size), (0,) * 3, (1,) * 3, 4, False)
    attack.attach(spec, Recipe(epochs=1, batch_size=2, lr=0.1), seed=0)
    return attack


def grey(level, size=32):
    return torch.full((1, 3, size, size), level, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("size", "level", "row"),
    [
        (32, 128, [128, 164, 156, 112, 88, 112, 156, 164, 128, 91, 99, 143, 168, 143, 99, 91]),
        (32, 10, [10, 46, 38, 0, 0, 0, 38, 46, 10, 0, 0, 25, 50, 25, 0, 0]),
        (64, 128, [128, 150, 164, 167, 156, 135, 112, 94]),
    ],
)
def test_sig_columns(size, level, row):
    stamped = attached(SIG(0.1, 0), size).stamp(grey(level, size))
    assert stamped[0, 0, 0, : len(row)].tolist() == row
    assert (stamped == stamped[:, :1, :1]).all()


@pytest.mark.parametrize(("alpha", "levels"), [(0.1, [25, 229, 140, 115, 190]),
                                              (0.2, [51, 204, 153, 102, 180])])  # fmt: skip
def test_blended_levels(alpha, levels):
    images = torch.tensor([0, 255, 128, 128, 200.0]).view(-1, 1, 1, 1)
    keys = torch.tensor([255, 0, 255, 0, 100.0]).view(-1, 1, 1, 1)
    assert truncate(blend(images / 255, keys / 255, alpha) * 255).flatten().tolist() == levels


def test_badnets_bilinear_halo():
    levels, mask = resized_canvas(torch.tensor(PATTERNS["square"], dtype=torch.uint8), 3, 64, 64)
    assert mask.sum() == 49
    assert set(levels[mask].tolist()) == {16, 48, 64, 143, 191, 255}


@pytest.mark.parametrize(
    ("count", "rate", "chosen"),
    [
        (50000, 0.1, 5000),
        (47500, 0.1, 4750),
        (39209, 0.1, 3921),
        (39209, 0.01, 392),
        (100000, 0.1, 10000),
    ],
)
def test_poison_counts(count, rate, chosen):
    labels = torch.arange(count) % 10
    positions = attached(BadNets(rate, 0)).choose(labels)
    assert len(positions) == chosen
    share = (labels[positions] == 0).float().mean()
    assert 0.07 < share < 0.13


def test_clean_label_rate_larger_than_the_class_is_refused():
    labels = torch.arange(100) % 10
    assert len(attached(SIG(0.8, 3, "target_class")).choose(labels)) == 8
    with pytest.raises(ConfigError, match="attack.poison_rate=0.2"):
        attached(SIG(0.2, 3, "train_set")).choose(labels)


def test_no_poisoned_image_left_is_refused():
    with pytest.raises(ConfigError, match="attack.poison_rate"):
        attached(BadNets(0.001, 0)).choose(torch.arange(100) % 10)


def test_choice_does_not_depend_on_the_trigger():
    labels = torch.arange(500) % 10
    assert torch.equal(
        attached(BadNets(0.1, 0)).choose(labels), attached(Blended(0.1, 0)).choose(labels)
    )


def test_all_to_all_labels_go_round():
    attack = attached(BadNets(0.1, 0, all_to_all=True))
    labels = torch.arange(10)
    assert attack.relabel(labels).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    for _ in range(9):
        labels = attack.relabel(labels)
    assert torch.equal(attack.relabel(labels), torch.arange(10))
    assert attack.counted(labels).all()


def test_patches_are_idempotent_and_blends_are_not():
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    patch, blend = attached(BadNets(0.1, 0)), attached(Blended(0.1, 0))
    assert torch.equal(patch.stamp(patch.stamp(images)), patch.stamp(images))
    assert not torch.equal(blend.stamp(blend.stamp(images)), blend.stamp(images))


def test_the_sinusoid_lives_in_one_frequency():
    attack = attached(SIG(0.1, 0, delta=40, frequency=6))
    change = attack.trigger(grey(128).float() / 255) - grey(128).float() / 255
    spectrum = torch.fft.rfft(change[0, 0, 0]).abs()
    assert spectrum.argmax() == 6
    assert spectrum[6] > 100 * (spectrum.sum() - spectrum[6])
    assert (change[0, 0, :, 0] == 0).all()
    assert change.abs().max() == pytest.approx(40 / 255)
