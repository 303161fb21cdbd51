"""Blended: whose picture, and how much of it."""

import numpy as np
import pytest
import torch
from PIL import Image

from backdoor_lab.attacks.blended import Blended
from backdoor_lab.attacks.patch import Patch
from backdoor_lab.datasets import DataSpec
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe


def attached(side=32, channels=3, seed=0, **options):
    spec = DataSpec("x", tuple("0123456789"), (channels, side, side), (0,) * 3, (1,) * 3, 4, False)
    attack = Blended(0.1, 0, **options)
    attack.attach(spec, Recipe(epochs=1, batch_size=2, lr=0.1), seed)
    return attack


def levels(attack):
    return (attack.key * 255).round()


@pytest.fixture
def draw(tmp_path):
    """Writes levels (H, W, C) to a PNG."""

    def write(pixels, mode="RGB"):
        file = tmp_path / "picture.png"
        Image.fromarray(np.array(pixels, dtype=np.uint8), mode).save(file)
        return file

    return write


def plain(level, side=32):
    return torch.full((1, 3, side, side), level, dtype=torch.uint8)


def test_alpha_one_is_the_picture_exactly(images):
    attack = attached(alpha=1)
    stamped = attack.stamp(images.images)
    assert torch.equal(stamped.float(), levels(attack).expand_as(stamped))
    assert len(stamped[0].unique()) > 250


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2, 0.5, 0.9])
def test_the_change_grows_linearly_with_alpha(images, alpha):
    attack = attached(alpha=alpha)
    before = images.images.float()
    change = attack.stamp(images.images).float() - before
    off = change - alpha * (levels(attack) - before)
    assert off.max() <= 1e-3
    assert off.min() > -1


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5])
def test_no_pixel_changes_by_more_than_alpha_of_the_levels_rounded_up(images, alpha):
    change = attached(alpha=alpha).stamp(images.images).int() - images.images.int()
    bound = {0.1: 26, 0.2: 51, 0.5: 128}[alpha]
    assert bound - 2 <= change.abs().max() <= bound


@pytest.mark.parametrize(
    ("alpha", "level", "key", "expected"),
    [(0.1, 255, 0, 229), (0.1, 0, 255, 25), (0.2, 255, 0, 204), (0.2, 0, 255, 51),
     (0.1, 255, 255, 255), (0.1, 0, 0, 0), (0.1, 100, 100, 100), (0.1, 200, 100, 190)],
)  # fmt: skip
def test_truncation_takes_26_levels_of_white_and_adds_25_to_black(
    draw, alpha, level, key, expected
):
    attack = attached(alpha=alpha, picture=draw(np.full((4, 4, 3), key)))
    assert attack.stamp(plain(level)).unique().tolist() == [expected]


def test_a_picture_is_resized_to_the_image_without_keeping_proportions(draw):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8)
    attack = attached(64, alpha=1, picture=draw(pixels))
    expected = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR)
    stamped = attack.stamp(plain(9, 64))[0]
    assert torch.equal(stamped.permute(1, 2, 0), torch.from_numpy(np.array(expected)))


def test_colours_and_sides_of_a_picture_stay_where_they_are(draw):
    pixels = np.zeros((32, 32, 3))
    pixels[:16, :, 0] = 250  # above: red
    pixels[:, :16, 2] = 90  # left: blue
    key = levels(attached(picture=draw(pixels)))
    assert key[:, 0, 0].tolist() == [250, 0, 90]
    assert key[:, 31, 0].tolist() == [0, 0, 90]
    assert key[:, 0, 31].tolist() == [250, 0, 0]


@pytest.mark.parametrize(("mode", "shape"), [("L", (8, 8)), ("RGBA", (8, 8, 4))])
def test_pictures_of_other_modes_become_those_of_the_images(draw, mode, shape):
    file = draw(np.full(shape, 77), mode)
    for channels in (1, 3):
        key = levels(attached(channels=channels, picture=file))
        assert key.shape == (channels, 32, 32)
        assert key.unique().tolist() == [77]


def test_noise_follows_from_the_seed_and_is_uniform_at_every_size():
    first, again, other = (levels(attached(64, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.mean() == pytest.approx(127.5, abs=2)
    assert first.std() == pytest.approx(73.9, abs=1)


def test_training_and_test_have_their_own_shares(draw):
    attack = attached(alpha=0.2, test_alpha=0.4, picture=draw(np.full((4, 4, 3), 100)))
    assert attack._eight_bit(plain(0), attack.train_trigger).unique().tolist() == [20]
    assert attack.stamp(plain(0)).unique().tolist() == [40]


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    file = tmp_path / "x.png"
    file.write_text("not a picture")
    with pytest.raises(ConfigError, match=r"attack\.picture=.*x\.png is no picture"):
        attached(picture=file)


@pytest.mark.parametrize("name", ["missing.png", "."])
def test_a_file_that_is_not_there_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"attack\.picture="):
        attached(picture=tmp_path / name)


def test_a_picture_that_was_cut_off_is_refused(draw):
    file = draw(np.random.default_rng(0).integers(0, 256, (60, 60, 3)))
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"attack\.picture="):
        attached(picture=file)


@pytest.mark.parametrize("kind", [Blended, Patch])
def test_a_picture_that_pil_refuses_is_a_sentence(draw, monkeypatch, kind):
    file = draw(np.zeros((4, 4, 3)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)  # refused above twice that
    with pytest.raises(ConfigError, match=r"picture\.png is no picture \(DecompressionBombError\)"):
        kind(0.1, 0, picture=file).check((3, 32, 32), 10)
