"""BadNets: levels and extent of its patch, at several sizes."""

import pytest
import torch

from backdoor_lab.attacks.badnets import BadNets, random_cells
from backdoor_lab.datasets import DataSpec
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe

GRID = [[255, 1, 255], [1, 255, 1], [255, 1, 255]]


def attached(side=32, channels=3, seed=0, **options):
    spec = DataSpec("x", tuple("0123456789"), (channels, side, side), (0,) * 3, (1,) * 3, 4, False)
    attack = BadNets(0.1, 0, **options)
    attack.attach(spec, Recipe(epochs=1, batch_size=2, lr=0.1), seed)
    return attack


def stamped(level, side=32, **options):
    grey = torch.full((1, 3, side, side), level, dtype=torch.uint8)
    return attached(side, **options).stamp(grey)[0]


@pytest.mark.parametrize("resize", ["native", "bilinear"])
@pytest.mark.parametrize(
    ("pattern", "rows"),
    [
        ("grid", GRID),
        ("square", [[255] * 3] * 3),
        ("checkerboard", [[0, 0, 255], [0, 255, 0], [255, 0, 255]]),
    ],
)
def test_rows_of_the_patch_at_32_pixels(resize, pattern, rows):
    image = stamped(99, pattern=pattern, resize=resize)
    assert image[:, 29:, 29:].tolist() == [rows] * 3
    assert (image != 99).sum() == 27


def test_grid_of_64_pixels_is_smooth_or_crisp():
    smooth = stamped(200, 64, pattern="grid", resize="bilinear")[0]
    assert smooth[63, 63] == 255
    assert smooth[-7:, -7:].min() == 16
    assert (smooth != 200).sum() == 49
    crisp = stamped(200, 64, pattern="grid", resize="native")[0]
    assert (
        crisp[-6:, -6:].tolist()
        == torch.tensor(GRID).repeat_interleave(2, 0).repeat_interleave(2, 1).tolist()
    )
    assert (crisp != 200).sum() == 36


@pytest.mark.parametrize(
    ("pattern", "changed"), [("square", 576), ("grid", 570), ("checkerboard", 576)]
)
def test_pixels_changed_by_the_resized_trigger_at_224(pattern, changed):
    image = stamped(99, 224, pattern=pattern, resize="bilinear")
    assert (image[0] != 99).sum() == changed
    assert (image[:, :200] == 99).all()
    assert (image[:, :, :200] == 99).all()
    assert torch.equal(image[0], image[2])


@pytest.mark.parametrize(("side", "patch"), [(32, 3), (64, 6), (224, 21), (16, 3)])
def test_a_native_patch_goes_with_the_size(side, patch):
    assert (stamped(99, side)[0] == 255).sum() == patch**2


@pytest.mark.parametrize("resize", ["native", "bilinear"])
def test_a_patch_of_five_pixels_has_25(resize):
    image = stamped(99, size=5, resize=resize)
    assert (image[:, 27:, 27:] == 255).all()
    assert (image == 255).sum() == 75


@pytest.mark.parametrize("resize", ["native", "bilinear"])
@pytest.mark.parametrize("size", [1, 2, 33])
def test_sizes_that_are_no_patch_are_refused(resize, size):
    with pytest.raises(ConfigError, match=f"attack.size={size} .* 3 to 32"):
        attached(size=size, resize=resize)


def test_a_bilinear_size_is_bounded_by_its_trigger_image_and_a_native_one_by_the_image():
    assert (stamped(0, 64, size=33)[0] == 255).sum() == 33**2
    with pytest.raises(ConfigError, match="attack.size=33"):
        attached(64, size=33, resize="bilinear")


def test_random_patch_has_27_values_of_the_seed():
    first, same, other = (attached(seed=seed, pattern="random") for seed in (0, 0, 1))
    patch = first.levels[:, -3:, -3:]
    assert torch.equal(first.levels, same.levels)
    assert not torch.equal(first.levels, other.levels)
    assert len(patch.unique()) > 20
    assert not torch.equal(patch[0], patch[1])
    assert (first.levels * 255).frac().abs().max() < 1e-4
    assert first.mask.sum() == 27
    drawn = torch.randn((3, 3, 3), generator=torch.Generator().manual_seed(5)).sigmoid()
    cells = random_cells(3, torch.Generator().manual_seed(5))
    assert torch.allclose(cells / 255, drawn, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("resize", ["native", "bilinear"])
def test_random_patch_exists_at_other_sizes(resize):
    attack = BadNets(0.1, 0, pattern="random", resize=resize)
    spec = DataSpec("x", ("a", "b"), (3, 64, 64), (0.0,) * 3, (1.0,) * 3, 4, False)
    attack.attach(spec, Recipe(epochs=1, batch_size=2, lr=0.1), 0)
    assert attack.levels.shape == attack.mask.shape == (3, 64, 64)
    assert attack.mask.sum() == 3 * {"native": 36, "bilinear": 49}[resize]


def test_grey_images_get_a_grey_patch():
    attack = attached(channels=1, pattern="grid")
    image = attack.stamp(torch.full((1, 1, 32, 32), 7, dtype=torch.uint8))
    assert image[0, :, 29:, 29:].tolist() == [GRID]
