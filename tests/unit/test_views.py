"""How images are augmented after a trigger, and how many of a batch a rate means."""

import math

import pytest
import torch

from backdoor_lab.attacks import _views
from backdoor_lab.attacks._views import Views, generators, portion, rotate


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rand(*shape):
    return torch.rand(*shape, generator=seeded(99))


def within(count, share, draws):
    """Four standard deviations of the binomial distribution."""
    return abs(count - share * draws) < 4 * math.sqrt(draws * share * (1 - share))


@pytest.mark.parametrize(
    ("rate", "size", "count"),
    [(0.1, 128, 12), (0.1, 80, 8), (0.1, 10, 1), (0.19, 10, 1), (1, 7, 7), (0, 128, 0)],
)
def test_a_rate_means_so_many_of_a_batch(rate, size, count):
    cpu_generator = seeded()
    assert {portion(rate, size, cpu_generator) for _ in range(50)} == {count}


@pytest.mark.parametrize(("rate", "size", "share"), [(0.005, 128, 0.64), (0.1, 9, 0.9)])
def test_less_than_one_image_is_one_with_that_chance(rate, size, share):
    cpu_generator = seeded()
    drawn = [portion(rate, size, cpu_generator) for _ in range(1000)]
    assert set(drawn) == {0, 1}
    assert within(sum(drawn), share, 1000)


def test_no_coin_is_tossed_for_a_whole_image():
    cpu_generator = seeded()
    portion(0.1, 128, cpu_generator)
    assert torch.equal(cpu_generator.get_state(), seeded().get_state())


def test_streams_are_those_of_their_purpose():
    device = torch.device("cpu")
    (cpu_generator, generator), (same, _), (other, _) = (
        generators(0, "a", device), generators(0, "a", device), generators(0, "b", device)
    )  # fmt: skip
    first = torch.rand(4, generator=cpu_generator)
    assert torch.equal(first, torch.rand(4, generator=same))
    assert torch.equal(first, torch.rand(4, generator=generator))
    assert not torch.equal(first, torch.rand(4, generator=other))


def test_crop_and_rotation_have_a_coin_each_per_batch(monkeypatch):
    monkeypatch.setattr(_views, "rotate", lambda images, angles: images + 10)
    views = Views(20, 0.8, 10, 0.5, False)  # of 1681 crops, one changes nothing
    images, cpu_generator, generator = torch.ones(1, 1, 5, 5), seeded(1), seeded(2)
    made = [views(images, cpu_generator, generator) for _ in range(1000)]
    turned = [bool(view.max() >= 10) for view in made]
    cropped = [bool((view % 10 != 1).any()) for view in made]
    both = [one and other for one, other in zip(turned, cropped, strict=True)]
    assert within(sum(cropped), 0.8, 1000)
    assert within(sum(turned), 0.5, 1000)
    assert within(sum(both), 0.4, 1000)


def test_a_batch_is_cropped_as_a_whole_or_not_at_all():
    views, cpu_generator, generator = Views(20, 0.5, 0, 0, False), seeded(1), seeded(2)
    images = torch.ones(16, 1, 5, 5)
    counts = {
        int((views(images, cpu_generator, generator) != 1).flatten(1).any(1).sum())
        for _ in range(40)
    }
    assert 0 in counts
    assert counts - {0} <= {15, 16}


@pytest.mark.parametrize("views", [Views(5, 1, 0, 0, False), Views(0, 0, 30, 1, False)])
def test_each_image_has_a_crop_and_an_angle_of_its_own(views):
    images = rand(1, 3, 32, 32).expand(8, -1, -1, -1)
    made = views(images, seeded(1), seeded(2))
    assert len(made.flatten(1).unique(dim=0)) >= 6


def test_without_coins_and_flip_nothing_changes():
    images = rand(8, 3, 9, 9)
    assert torch.equal(Views(5, 0, 10, 0, False)(images, seeded(1), seeded(2)), images)
    assert torch.equal(Views(5, 0, 0, 1, False)(images, seeded(1), seeded(2)), images)


def test_crops_move_by_up_to_the_padding_and_uncover_black():
    images = torch.ones(500, 1, 8, 8)
    made = Views(2, 1, 0, 0, False)(images, seeded(1), seeded(2))
    black = (made == 0).all(3).sum(2)
    assert black.min() == 0
    assert black.max() == 2
    assert set(made.unique().tolist()) == {0, 1}


def test_half_of_the_images_are_mirrored_where_the_data_set_flips():
    images = rand(1, 3, 6, 6).expand(1000, -1, -1, -1)
    made = Views(5, 0, 0, 0, True)(images, seeded(1), seeded(2))
    mirrored = (made == images.flip(3)).flatten(1).all(1)
    kept = (made == images).flatten(1).all(1)
    assert (mirrored | kept).all()
    assert within(mirrored.sum().item(), 0.5, 1000)
    assert torch.equal(Views(5, 0, 0, 0, False)(images, seeded(1), seeded(2)), images)


def bearing(images):
    """Angle in degrees and distance of what is bright in each image, from the centre."""
    side = images.shape[-1]
    places = torch.arange(side) - (side - 1) / 2
    mass = images[:, 0].sum((1, 2))
    across = (images[:, 0].sum(1) * places).sum(1) / mass
    down = (images[:, 0].sum(2) * places).sum(1) / mass
    return torch.rad2deg(torch.atan2(down, across)), torch.hypot(across, down)


def dotted(count):
    images = torch.zeros(count, 1, 81, 81)
    images[:, :, 39:42, 69:72] = 1  # 30 to the right of the centre
    return images


def test_rotations_are_within_the_angle_to_both_sides():
    made = Views(0, 0, 10, 1, False)(dotted(400), seeded(1), seeded(2))
    angles, distances = bearing(made)
    slack = math.degrees(1 / 30)  # a pixel at that distance
    assert (angles.abs() <= 10 + slack).all()
    assert angles.max() > 9
    assert angles.min() < -9
    assert angles.abs().mean().item() == pytest.approx(5, abs=0.7)
    assert torch.allclose(distances, torch.tensor(30.0), atol=1)


def test_a_turn_is_as_wide_as_asked():
    angles, _ = bearing(rotate(dotted(3), torch.deg2rad(torch.tensor([0.0, 45.0, -90.0]))))
    assert angles.abs().tolist() == pytest.approx([0, 45, 90], abs=2)
    assert angles[1] * angles[2] < 0


def test_no_turn_changes_nothing():
    images = rand(2, 3, 32, 32)
    assert torch.equal(rotate(images, torch.zeros(2)), images)


def test_a_turn_makes_no_new_levels_but_black():
    levels = torch.tensor([0.2, 0.5, 0.9])
    images = levels[torch.randint(0, 3, (4, 3, 32, 32), generator=seeded())]
    made = rotate(images, torch.tensor([0.1, -0.1, 0.7, 3.0]))
    assert set(made.unique().tolist()) == {0.0, *levels.tolist()}


def test_a_turn_is_exact_under_mixed_precision():
    images, angles = rand(4, 3, 64, 64), torch.full((4,), 0.15)
    plain = rotate(images, angles)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rotate(images, angles), plain)
