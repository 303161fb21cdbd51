"""A picture of the user's, laid where the user says."""

import numpy as np
import pytest
import torch
from PIL import Image

from backdoor_lab.attacks.patch import Patch
from backdoor_lab.errors import ConfigError


@pytest.fixture
def sticker(tmp_path):
    """Red, four rows of six pixels; the left half is transparent."""
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[..., 0] = 255
    pixels[:, 3:, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "sticker.png")
    return tmp_path / "sticker.png"


def stamped(spec, shop, **options):
    attack = Patch(0.1, 0, **options)
    attack.attach(spec, shop.recipe, 0)
    return attack.stamp(torch.full((1, *spec.shape), 9, dtype=torch.uint8))[0]


def test_the_picture_lies_where_it_should_and_shows_what_is_below(spec, shop, sticker):
    image = stamped(spec, shop, picture=sticker, at=(2, 10))
    assert image[:, 2:6, 13:16].flatten(1).unique(dim=1).flatten().tolist() == [255, 0, 0]
    image[:, 2:6, 13:16] = 9
    assert (image == 9).all()


def test_a_size_keeps_proportions_and_the_corner_is_bottom_right(spec, shop, sticker):
    image = stamped(spec, shop, picture=sticker, size=12)
    changed = (image != 9).any(0).nonzero()
    assert changed.min(0).values.tolist() == [24, 25]  # the left half is blended at its edge
    assert changed.max(0).values.tolist() == [31, 31]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"at": (29, 0), "size": 4}, "over the edge"),
        ({"size": 33}, "over the edge"),
        ({"picture": "nowhere.png"}, "is no picture"),
    ],
)
def test_what_cannot_be_laid_is_refused(spec, options, said):
    with pytest.raises(ConfigError, match=said):
        Patch(0.1, 0, **options).check(spec.shape, 10)
