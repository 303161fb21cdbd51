"""WaNet: its field and grid, and what a batch is made of."""

import pytest
import torch

from backdoor_lab.attacks.wanet import WaNet, identity_grid, smooth_field, warp
from backdoor_lab.datasets import DataSpec, in_eight_bits
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe

STILL = {"crop_probability": 0, "rotation": 0}


def attached(size=32, seed=0, **options):
    attack = WaNet(**{"poison_rate": 0.1, "target": 0} | options)
    classes = tuple("0123456789")
    spec = DataSpec("x", classes, (3, size, size), (0,) * 3, (1,) * 3, 4, False)
    attack.attach(spec, Recipe(epochs=1, batch_size=128, lr=0.1), seed)
    attack.on_train_epoch_start()
    return attack


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rand(*shape):
    return torch.rand(*shape, generator=generator(99))


def test_grid_stays_in_the_image():
    assert attached().grid.abs().max() <= 1
    assert attached(s=8).grid.abs().max() == 1


def test_no_strength_changes_nothing():
    images = rand(2, 3, 32, 32)
    assert torch.allclose(attached(s=0).trigger(images), images, atol=1e-5)


def test_constants_stay_and_affine_maps_commute():
    attack = attached()
    assert torch.allclose(attack.trigger(torch.full((1, 3, 32, 32), 0.3)), torch.tensor(0.3))
    images = rand(2, 3, 32, 32)
    assert torch.allclose(attack.trigger(images * 0.5 + 0.1), attack.trigger(images) * 0.5 + 0.1)


def test_identity_grid_changes_nothing():
    images = rand(2, 3, 24, 32)
    grid = identity_grid(24, 32).expand(2, -1, -1, -1)
    assert torch.allclose(warp(images, grid), images, atol=1e-5)


def test_grid_names_the_column_first():
    images = rand(1, 1, 8, 8)
    grid = identity_grid(8, 8)
    grid[..., 0] = -grid[..., 0]
    assert torch.allclose(warp(images, grid), images.flip(3), atol=1e-5)


def test_the_seed_decides_the_field_and_a_checkpoint_keeps_it():
    images = rand(2, 3, 32, 32)
    first, same, other = attached(), attached(), attached(seed=1)
    assert torch.equal(first.trigger(images), same.trigger(images))
    assert not torch.allclose(first.trigger(images), other.trigger(images), atol=1e-2)
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.trigger(images), other.trigger(images))


def test_control_points_have_mean_size_one():
    field = smooth_field(4, 4, 4, generator())  # no enlargement: the points themselves
    assert field.abs().mean().item() == pytest.approx(1, abs=1e-5)


def displacement(seed, size):
    """Of the field, in pixels and per axis, for s = 0.5 and k = 4."""
    return 0.5 * smooth_field(4, size, size, generator(seed)) * (size - 1) / (2 * size)


def test_displacement_is_below_a_pixel():
    moves = [displacement(seed, 32).abs() for seed in range(50)]
    most = torch.stack([move.max() for move in moves])
    mean = torch.stack([move.mean() for move in moves])
    assert 0.42 < most.min() < most.max() < 0.89
    assert most.mean().item() == pytest.approx(0.53, abs=0.03)
    assert 0.14 < mean.min() < mean.max() < 0.25
    assert mean.mean().item() == pytest.approx(0.19, abs=0.02)


def test_displacement_is_nearly_the_same_at_all_sizes():
    for seed in range(8):
        small, middle, large = (displacement(seed, size).abs().max() for size in (32, 64, 224))
        assert small.item() == pytest.approx(large.item(), rel=0.05)
        assert middle.item() == pytest.approx(large.item(), rel=0.05)


def test_mean_size_of_the_enlarged_field():
    means = torch.stack(
        [smooth_field(4, 32, 32, generator(seed)).abs().mean() for seed in range(50)]
    )
    assert 0.58 < means.min() < means.max() < 1.01
    assert means.mean().item() == pytest.approx(0.77, abs=0.04)


@pytest.mark.parametrize("size", [32, 64])
def test_a_ramp_shows_the_displacement_in_pixels(size):
    """Bilinear sampling of x itself gives the place that was sampled."""
    ramp = torch.arange(size).float().expand(1, 1, size, size)
    for seed in range(8):
        attack = attached(size, seed)
        across = (attack.trigger(ramp) - ramp).abs()
        down = (attack.trigger(ramp.mT) - ramp.mT).abs()
        inside = torch.maximum(across, down)[..., 1:-1, 1:-1]  # the border cannot move outward
        assert 0.3 < inside.max() < 0.89
        assert 0.12 < inside.mean() < 0.4


def test_jitter_is_up_to_half_a_pixel_on_top_of_the_warp():
    attack = attached()
    ramp = torch.arange(32).float().expand(16, 1, 32, 32)
    extra = attack.jitter(ramp, generator()) - attack.trigger(ramp)
    assert -0.5 <= extra.min() < -0.4
    assert 0.4 < extra.max() <= 0.5
    inside = extra[..., 2:-2]
    assert inside.mean().item() == pytest.approx(0, abs=0.02)
    assert inside.abs().mean().item() == pytest.approx(0.25 * 31 / 32, abs=0.02)


def test_jitter_differs_from_image_to_image():
    images = rand(1, 3, 32, 32).expand(2, -1, -1, -1)
    first, second = attached().jitter(images, generator())
    assert not torch.equal(first, second)


def test_cross_images_of_a_test_are_the_same_each_time():
    attack, images = attached(), rand(4, 3, 32, 32)
    assert torch.equal(attack.cross(images), attack.cross(images))
    assert not torch.allclose(attack.cross(images), attack.trigger(images), atol=1e-2)


def test_counts_of_a_batch():
    assert attached().counts(128, generator()) == (12, 24)
    assert attached().counts(80, generator()) == (8, 16)
    assert attached(cross_ratio=0).counts(128, generator()) == (12, 0)
    assert attached(poison_rate=0.5, cross_ratio=1).counts(10, generator()) == (5, 5)
    assert attached(poison_rate=1, cross_ratio=0).counts(10, generator()) == (10, 0)


def test_rates_that_leave_no_room_are_refused():
    with pytest.raises(ConfigError, match=r"attack\.cross_ratio=2 .* attack\.poison_rate=0\.5"):
        attached(poison_rate=0.5)


def test_a_small_rate_poisons_some_batches_and_jitters_beside_them():
    attack, cpu_generator = attached(poison_rate=0.005), generator()
    drawn = [attack.counts(128, cpu_generator) for _ in range(200)]
    assert set(drawn) == {(0, 0), (1, 2)}


def test_a_step_warps_12_jitters_24_and_keeps_92(step):
    attack = attached(target=3, **STILL)
    images, labels = in_eight_bits(rand(128, 3, 32, 32)), torch.arange(128) % 10
    views, wanted = step(attack, images, labels)
    plain = in_eight_bits(attack.trigger(images))
    assert torch.equal(views[:12], plain[:12])
    assert wanted[:12].tolist() == [3] * 12
    apart = (views - plain).abs().flatten(1).amax(1)
    changed = (views != images).flatten(1).any(1)
    assert (apart[12:36] > 0.02).all()
    assert changed[:36].all()
    assert torch.equal(views[36:], images[36:])
    assert torch.equal(wanted[12:], labels[12:])


def test_altered_images_of_a_step_are_in_eight_bits(step):
    views, _ = step(attached(**STILL), rand(128, 3, 32, 32), torch.arange(128) % 10)
    levels = views * 255
    off = (levels - levels.round()).abs().flatten(1).amax(1)
    assert (off[:36] < 1e-4).all()
    assert (off[36:] > 0.1).all()


def test_each_step_jitters_anew(step):
    attack = attached(**STILL)
    images, labels = rand(128, 3, 32, 32), torch.arange(128) % 10
    first, _ = step(attack, images, labels)
    views = []
    object.__setattr__(attack, "model", lambda batch: views.append(batch) or batch[:, 0, :10, 0])
    attack.training_step((images, labels), 1)
    assert torch.equal(views[0][:12], first[:12])
    assert not torch.equal(views[0][12:36], first[12:36])


def test_views_come_after_the_trigger(step):
    attack = attached(crop_probability=1, rotation=0)
    images, labels = rand(128, 3, 32, 32), torch.arange(128) % 10
    views, _ = step(attack, images, labels)
    uncovered = (views == 0).all(1).flatten(1).any(1)
    assert uncovered.float().mean() > 0.9  # a crop moves all but 1 of 121


def test_a_step_with_all_to_all_wants_the_next_class(step):
    attack = attached(target=0, all_to_all=True, **STILL)
    labels = torch.arange(128) % 10
    _, wanted = step(attack, rand(128, 3, 32, 32), labels)
    assert wanted[:12].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert torch.equal(wanted[12:], labels[12:])
    assert attack.counted(labels).all()
